"""The HTTP API from the outside, with the standard library only."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from cluster import Node

__all__ = ["Answer", "get", "post"]


class Answer:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.json: Any = json.loads(body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found


def _call(request: urllib.request.Request) -> Answer:
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return Answer(reply.status, reply.headers, reply.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())


def get(node: Node, path: str) -> Answer:
    return _call(urllib.request.Request(f"http://{node.http}{path}"))


def post(node: Node, path: str, body: object) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return _call(urllib.request.Request(f"http://{node.http}{path}", data=data, method="POST"))
