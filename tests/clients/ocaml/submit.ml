let body =
  {|{"model": "doubao-seedance-1-0-pro-250528", "content": [
  {"type": "text",
   "text": "A paper boat drifts past a lighthouse at dusk --resolution 480p --duration 5"},
  {"type": "image_url",
   "image_url": {"url": "https://img.example/boat.png?sign=harbour-7"}}]}|}

let read_all channel =
  let text = Buffer.create 4096 in
  (try
     while true do
       Buffer.add_channel text channel 1
     done
   with End_of_file -> ());
  Buffer.contents text

let rec find_body answer from =
  if String.sub answer from 4 = "\r\n\r\n" then from + 4 else find_body answer (from + 1)

let () =
  Scanf.sscanf (Sys.getenv "GATEWAY_URL") "http://%[^:]:%d" (fun host port ->
      let address = (Unix.gethostbyname host).Unix.h_addr_list.(0) in
      let input, output = Unix.open_connection (Unix.ADDR_INET (address, port)) in
      Printf.fprintf output
        "POST /seedance/generations HTTP/1.1\r\n\
         Host: %s:%d\r\n\
         Authorization: Bearer %s\r\n\
         Accept: application/json\r\n\
         Content-Type: application/json\r\n\
         Content-Length: %d\r\n\
         Connection: close\r\n\
         \r\n\
         %s%!"
        host port
        (Sys.getenv "GATEWAY_KEY")
        (String.length body) body;
      let answer = read_all input in
      let start = find_body answer 0 in
      print_endline (String.sub answer start (String.length answer - start));
      exit (if String.sub answer 0 12 = "HTTP/1.1 200" then 0 else 1))
