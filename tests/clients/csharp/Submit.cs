using System;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Text;
using System.Threading.Tasks;

public static class Submit
{
    public static int Main()
    {
        return Send().GetAwaiter().GetResult();
    }

    private static async Task<int> Send()
    {
        var body = @"{
  ""model"": ""doubao-seedance-1-0-pro-250528"",
  ""content"": [
    {
      ""type"": ""text"",
      ""text"": ""A paper boat drifts past a lighthouse at dusk --resolution 480p --duration 5""
    },
    {
      ""type"": ""image_url"",
      ""image_url"": {""url"": ""https://img.example/boat.png?sign=harbour-7""}
    }
  ]
}";
        using (var client = new HttpClient())
        {
            client.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue(
                "Bearer", Environment.GetEnvironmentVariable("GATEWAY_KEY"));
            client.DefaultRequestHeaders.Accept.Add(
                new MediaTypeWithQualityHeaderValue("application/json"));
            var answer = await client.PostAsync(
                Environment.GetEnvironmentVariable("GATEWAY_URL") + "/seedance/generations",
                new StringContent(body, Encoding.UTF8, "application/json"));
            Console.WriteLine(await answer.Content.ReadAsStringAsync());
            return answer.IsSuccessStatusCode ? 0 : 1;
        }
    }
}
