const answer = await fetch(`${process.env.GATEWAY_URL}/seedance/generations`, {
  method: "POST",
  headers: {
    Authorization: `Bearer ${process.env.GATEWAY_KEY}`,
    Accept: "application/json",
    "Content-Type": "application/json",
  },
  body: JSON.stringify({
    model: "doubao-seedance-1-0-pro-250528",
    content: [
      {
        type: "text",
        text: "A paper boat drifts past a lighthouse at dusk --resolution 480p --duration 5",
      },
      {
        type: "image_url",
        image_url: { url: "https://img.example/boat.png?sign=harbour-7" },
      },
    ],
  }),
  redirect: "follow",
});
console.log(await answer.text());
if (!answer.ok) process.exitCode = 1;
