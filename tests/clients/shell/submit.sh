curl --silent --show-error --location --request POST "$GATEWAY_URL/seedance/generations" \
  --header "Authorization: Bearer $GATEWAY_KEY" \
  --header 'Accept: application/json' \
  --header 'Content-Type: application/json' \
  --data-raw '{
    "model": "doubao-seedance-1-0-pro-250528",
    "content": [
      {
        "type": "text",
        "text": "A paper boat drifts past a lighthouse at dusk --resolution 480p --duration 5"
      },
      {
        "type": "image_url",
        "image_url": {"url": "https://img.example/boat.png?sign=harbour-7"}
      }
    ]
  }'
