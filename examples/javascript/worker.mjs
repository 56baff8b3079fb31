// Works until the queue is empty, without a library: node worker.mjs URL PROJECT QUEUE
import { randomUUID } from "node:crypto";

const [url, project, queue] = process.argv.slice(2);
const headers = {
  "Client-ID": randomUUID(),
  "X-Project-ID": project,
  "Content-Type": "application/json",
};

async function ask(method, path, document) {
  const body = document === undefined ? undefined : JSON.stringify(document);
  const signal = AbortSignal.timeout(30_000);
  const answer = await fetch(url + path, { method, headers, body, signal });
  if (!answer.ok) throw new Error((await answer.json()).description);
  return answer.status === 204 ? null : answer.json();
}

// The claim has to be renewed (PATCH) by work that takes longer than its ttl.
const claims = `/v2/queues/${queue}/claims?limit=10`;
let claimed;
while ((claimed = await ask("POST", claims, { ttl: 300, grace: 60 }))) {
  for (const message of claimed.messages) {
    console.log("did job", message.body.job);
    // The path has the claim's id: nobody else can have done it meanwhile.
    await ask("DELETE", message.href);
  }
}
