<?php

$body = json_encode([
    "model" => "doubao-seedance-1-0-pro-250528",
    "content" => [
        [
            "type" => "text",
            "text" => "A paper boat drifts past a lighthouse at dusk --resolution 480p --duration 5",
        ],
        [
            "type" => "image_url",
            "image_url" => ["url" => "https://img.example/boat.png?sign=harbour-7"],
        ],
    ],
]);
$context = stream_context_create(["http" => [
    "method" => "POST",
    "header" => [
        "Authorization: Bearer " . getenv("GATEWAY_KEY"),
        "Accept: application/json",
        "Content-Type: application/json",
    ],
    "content" => $body,
    "ignore_errors" => true,
]]);
$answer = file_get_contents(getenv("GATEWAY_URL") . "/seedance/generations", false, $context);
echo $answer, "\n";
exit(str_contains($http_response_header[0], " 200") ? 0 : 1);
