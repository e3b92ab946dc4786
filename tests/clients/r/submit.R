body <- '{
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
host <- sub("^http://", "", Sys.getenv("GATEWAY_URL"))
place <- strsplit(host, ":")[[1]]
head <- c(
  "POST /seedance/generations HTTP/1.1",
  paste("Host:", host),
  paste("Authorization: Bearer", Sys.getenv("GATEWAY_KEY")),
  "Accept: application/json",
  "Content-Type: application/json",
  paste("Content-Length:", nchar(body, type = "bytes")),
  "Connection: close",
  "",
  ""
)
connection <- socketConnection(place[1], as.integer(place[2]), open = "r+b", blocking = TRUE)
writeChar(paste0(paste(head, collapse = "\r\n"), body), connection, eos = NULL)
answer <- readLines(connection, warn = FALSE)
close(connection)
cat(answer[seq(which(answer == "")[1] + 1, length(answer))], sep = "\n")
cat("\n")
if (!startsWith(answer[1], "HTTP/1.1 200")) quit(status = 1)
