import json
import os
import urllib.error
import urllib.request

request = urllib.request.Request(
    os.environ["GATEWAY_URL"] + "/seedance/generations",
    method="POST",
    headers={
        "Authorization": "Bearer " + os.environ["GATEWAY_KEY"],
        "Accept": "application/json",
        "Content-Type": "application/json",
    },
    data=json.dumps(
        {
            "model": "doubao-seedance-1-0-pro-250528",
            "content": [
                {
                    "type": "text",
                    "text": "A paper boat drifts past a lighthouse at dusk --resolution 480p --duration 5",
                },
                {
                    "type": "image_url",
                    "image_url": {"url": "https://img.example/boat.png?sign=harbour-7"},
                },
            ],
        }
    ).encode(),
)
try:
    with urllib.request.urlopen(request) as answer:
        print(answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
    raise SystemExit(1)
