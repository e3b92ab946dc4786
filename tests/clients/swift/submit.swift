import Foundation
#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

let environment = ProcessInfo.processInfo.environment
let body = """
{
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
}
"""

var request = URLRequest(url: URL(string: environment["GATEWAY_URL"]! + "/seedance/generations")!)
request.httpMethod = "POST"
request.addValue("Bearer " + environment["GATEWAY_KEY"]!, forHTTPHeaderField: "Authorization")
request.addValue("application/json", forHTTPHeaderField: "Accept")
request.addValue("application/json", forHTTPHeaderField: "Content-Type")
request.httpBody = body.data(using: .utf8)

let done = DispatchSemaphore(value: 0)
var exitCode: Int32 = 1
URLSession.shared.dataTask(with: request) { data, response, error in
    if let data = data {
        print(String(decoding: data, as: UTF8.self))
    } else {
        print(String(describing: error))
    }
    if let answer = response as? HTTPURLResponse, answer.statusCode == 200 {
        exitCode = 0
    }
    done.signal()
}.resume()
done.wait()
exit(exitCode)
