require "json"
require "net/http"
require "uri"

url = URI(ENV.fetch("GATEWAY_URL") + "/seedance/generations")
request = Net::HTTP::Post.new(url)
request["Authorization"] = "Bearer #{ENV.fetch("GATEWAY_KEY")}"
request["Accept"] = "application/json"
request["Content-Type"] = "application/json"
request.body = JSON.dump(
  "model" => "doubao-seedance-1-0-pro-250528",
  "content" => [
    {
      "type" => "text",
      "text" => "A paper boat drifts past a lighthouse at dusk --resolution 480p --duration 5"
    },
    {
      "type" => "image_url",
      "image_url" => { "url" => "https://img.example/boat.png?sign=harbour-7" }
    }
  ]
)

answer = Net::HTTP.start(url.host, url.port) { |http| http.request(request) }
puts answer.body
exit answer.is_a?(Net::HTTPOK)
