package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	body := strings.NewReader(`{
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
}`)
	request, err := http.NewRequest("POST", os.Getenv("GATEWAY_URL")+"/seedance/generations", body)
	if err != nil {
		panic(err)
	}
	request.Header.Add("Authorization", "Bearer "+os.Getenv("GATEWAY_KEY"))
	request.Header.Add("Accept", "application/json")
	request.Header.Add("Content-Type", "application/json")

	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		panic(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
	if answer.StatusCode != 200 {
		os.Exit(1)
	}
}
