#import <Foundation/Foundation.h>

int main(void) {
    NSAutoreleasePool *pool = [NSAutoreleasePool new];
    NSDictionary *environment = [[NSProcessInfo processInfo] environment];
    NSString *body =
        @"{\"model\": \"doubao-seedance-1-0-pro-250528\", \"content\": ["
         "{\"type\": \"text\", \"text\": \"A paper boat drifts past a lighthouse at dusk"
         " --resolution 480p --duration 5\"},"
         "{\"type\": \"image_url\","
         " \"image_url\": {\"url\": \"https://img.example/boat.png?sign=harbour-7\"}}]}";
    NSString *url = [[environment objectForKey:@"GATEWAY_URL"]
        stringByAppendingString:@"/seedance/generations"];
    NSMutableURLRequest *request =
        [NSMutableURLRequest requestWithURL:[NSURL URLWithString:url]];
    [request setHTTPMethod:@"POST"];
    [request setValue:[@"Bearer " stringByAppendingString:
                          [environment objectForKey:@"GATEWAY_KEY"]]
        forHTTPHeaderField:@"Authorization"];
    [request setValue:@"application/json" forHTTPHeaderField:@"Accept"];
    [request setValue:@"application/json" forHTTPHeaderField:@"Content-Type"];
    [request setHTTPBody:[body dataUsingEncoding:NSUTF8StringEncoding]];

    NSHTTPURLResponse *response = nil;
    NSError *error = nil;
    NSData *answer = [NSURLConnection sendSynchronousRequest:request
                                           returningResponse:&response
                                                       error:&error];
    if (answer == nil) {
        NSLog(@"%@", error);
        return 1;
    }
    NSString *text = [[NSString alloc] initWithData:answer encoding:NSUTF8StringEncoding];
    puts([text UTF8String]);
    int exitCode = [response statusCode] == 200 ? 0 : 1;
    [text release];
    [pool drain];
    return exitCode;
}
