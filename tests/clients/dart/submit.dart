import 'dart:convert';
import 'dart:io';

Future<void> main() async {
  final environment = Platform.environment;
  final url = Uri.parse('${environment['GATEWAY_URL']}/seedance/generations');
  final client = HttpClient();
  final request = await client.postUrl(url);
  request.headers.set('Authorization', 'Bearer ${environment['GATEWAY_KEY']}');
  request.headers.set('Accept', 'application/json');
  request.headers.contentType = ContentType.json;
  request.write(jsonEncode({
    'model': 'doubao-seedance-1-0-pro-250528',
    'content': [
      {
        'type': 'text',
        'text': 'A paper boat drifts past a lighthouse at dusk --resolution 480p --duration 5',
      },
      {
        'type': 'image_url',
        'image_url': {'url': 'https://img.example/boat.png?sign=harbour-7'},
      },
    ],
  }));
  final answer = await request.close();
  print(await answer.transform(utf8.decoder).join());
  client.close();
  exitCode = answer.statusCode == 200 ? 0 : 1;
}
