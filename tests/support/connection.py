"""HTTP/1.1 over one asyncio socket, as little of it as the load needs."""

from __future__ import annotations

import asyncio
import json
import uuid

#: What ends a connection when the server is killed.
GONE = (OSError, asyncio.IncompleteReadError)

PATCH_TYPE = "application/openstack-messaging-v2.0-json-patch"


class Connection:
    """One client of one project: a request and its answer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, project: str) -> None:
        self.reader = reader
        self.writer = writer
        self.fields = f"Host: t\r\nClient-ID: {uuid.uuid4()}\r\nX-Project-ID: {project}\r\n"

    @classmethod
    async def open(cls, address: tuple[str, int], project: str) -> Connection:
        return cls(*await asyncio.open_connection(*address), project)

    async def request(self, method: str, path: str, document: object = None) -> tuple[int, dict]:
        """The status and the decoded body of the answer, empty when it had none."""
        body = b"" if document is None else json.dumps(document).encode()
        # A list is the one document that is no JSON object: a patch of metadata.
        media_type = PATCH_TYPE if isinstance(document, list) else "application/json"
        head = f"{method} {path} HTTP/1.1\r\n{self.fields}Content-Type: {media_type}\r\n"
        self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        status = int(lines[0].split()[1])
        length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
        content = await self.reader.readexactly(length) if length else b""
        return status, json.loads(content) if content else {}

    def close(self) -> None:
        self.writer.close()
