import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Submit {
    public static void main(String[] args) throws Exception {
        String body = """
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
            """;
        HttpRequest request = HttpRequest
            .newBuilder(URI.create(System.getenv("GATEWAY_URL") + "/seedance/generations"))
            .header("Authorization", "Bearer " + System.getenv("GATEWAY_KEY"))
            .header("Accept", "application/json")
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
        HttpResponse<String> answer =
            HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.body());
        System.exit(answer.statusCode() == 200 ? 0 : 1);
    }
}
