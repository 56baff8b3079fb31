// Posts numbered messages, without a library: node producer.mjs URL PROJECT QUEUE [COUNT]
import { randomUUID } from "node:crypto";

const [url, project, queue, count = "3"] = process.argv.slice(2);
const headers = {
  "Client-ID": randomUUID(),
  "X-Project-ID": project,
  "Content-Type": "application/json",
};

for (let number = 1; number <= Number(count); number++) {
  // A post that got no answer may have been stored: it is not sent again by itself.
  const answer = await fetch(`${url}/v2/queues/${queue}/messages`, {
    method: "POST",
    headers,
    body: JSON.stringify({ messages: [{ ttl: 3600, body: { job: number } }] }),
    signal: AbortSignal.timeout(30_000),
  });
  const document = await answer.json();
  if (answer.status !== 201) throw new Error(document.description);
  console.log("posted", document.resources[0].split("/").pop());
}
