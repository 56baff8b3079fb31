"""Posts numbered messages, with nothing but the standard library: producer.py URL PROJECT QUEUE."""

import json
import sys
import urllib.request
import uuid


def main(url: str, project: str, queue: str, count: str = "3") -> None:
    for number in range(1, int(count) + 1):
        document = {"messages": [{"ttl": 3600, "body": {"job": number}}]}
        request = urllib.request.Request(
            f"{url}/v2/queues/{queue}/messages",
            method="POST",
            data=json.dumps(document).encode(),
            headers={
                "Client-ID": str(uuid.uuid4()),
                "X-Project-ID": project,
                "Content-Type": "application/json",
            },
        )
        # A post that got no answer may have been stored: it is not sent again by itself.
        with urllib.request.urlopen(request, timeout=30) as answer:
            print("posted", json.load(answer)["resources"][0].rsplit("/", 1)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
