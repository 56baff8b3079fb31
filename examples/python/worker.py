"""Works until the queue is empty, with nothing but the standard library: worker.py URL PROJECT QUEUE."""

import json
import sys
import urllib.request
import uuid

CLIENT = str(uuid.uuid4())


def ask(method: str, url: str, project: str, document: object = None) -> dict | None:
    """What is answered; None for an answer without a body."""
    data = None if document is None else json.dumps(document).encode()
    headers = {"Client-ID": CLIENT, "X-Project-ID": project, "Content-Type": "application/json"}
    request = urllib.request.Request(url, method=method, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        body = answer.read()
    return json.loads(body) if body else None


def main(url: str, project: str, queue: str) -> None:
    # The claim has to be renewed (PATCH) by work that takes longer than its ttl.
    times = {"ttl": 300, "grace": 60}
    while claimed := ask("POST", f"{url}/v2/queues/{queue}/claims?limit=10", project, times):
        for message in claimed["messages"]:
            print("did job", message["body"]["job"])
            # The path has the claim's id: nobody else can have done it meanwhile.
            ask("DELETE", url + message["href"], project)


if __name__ == "__main__":
    main(*sys.argv[1:])
