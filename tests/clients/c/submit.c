#define _POSIX_C_SOURCE 200809L
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *body =
    "{\"model\": \"doubao-seedance-1-0-pro-250528\", \"content\": ["
    "{\"type\": \"text\", \"text\": \"A paper boat drifts past a lighthouse at dusk"
    " --resolution 480p --duration 5\"},"
    "{\"type\": \"image_url\","
    " \"image_url\": {\"url\": \"https://img.example/boat.png?sign=harbour-7\"}}]}";

static int connect_to(const char *host, const char *port) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(host, port, &hints, &found) != 0) return -1;
    int connection = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
    if (connection >= 0 && connect(connection, found->ai_addr, found->ai_addrlen) != 0) {
        close(connection);
        connection = -1;
    }
    freeaddrinfo(found);
    return connection;
}

int main(void) {
    char host[256], port[6] = "80", request[4096], answer[65536];
    if (sscanf(getenv("GATEWAY_URL"), "http://%255[^:/]:%5[0-9]", host, port) < 1) return 2;
    int connection = connect_to(host, port);
    if (connection < 0) {
        perror("connect");
        return 1;
    }
    int length = snprintf(request, sizeof request,
                          "POST /seedance/generations HTTP/1.1\r\n"
                          "Host: %s:%s\r\n"
                          "Authorization: Bearer %s\r\n"
                          "Accept: application/json\r\n"
                          "Content-Type: application/json\r\n"
                          "Content-Length: %zu\r\n"
                          "Connection: close\r\n\r\n%s",
                          host, port, getenv("GATEWAY_KEY"), strlen(body), body);
    for (int sent = 0; sent < length;) {
        ssize_t count = send(connection, request + sent, (size_t)(length - sent), 0);
        if (count < 0) return 1;
        sent += (int)count;
    }
    size_t filled = 0;
    for (ssize_t count; filled < sizeof answer - 1; filled += (size_t)count) {
        count = recv(connection, answer + filled, sizeof answer - 1 - filled, 0);
        if (count <= 0) break;
    }
    answer[filled] = '\0';
    close(connection);
    char *answer_body = strstr(answer, "\r\n\r\n");
    puts(answer_body ? answer_body + 4 : answer);
    return strncmp(answer, "HTTP/1.1 200", 12) == 0 ? 0 : 1;
}
