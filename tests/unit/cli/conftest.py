"""Commands under test speak to a fake cluster."""

from __future__ import annotations

import pytest
from clifakes import FakeClient, three_nodes

import paceline.client
from paceline.cli import context, members


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """A healthy cluster of three behind ``--connect``; nothing touches a socket."""
    client = FakeClient(three_nodes())

    def ask(address: str) -> members.NodeStatus | str:
        return client.statuses.get(address, "connection refused")

    def make(addresses: list[str], **_options: object) -> FakeClient:
        return client

    monkeypatch.setattr(paceline.client, "Client", make)
    monkeypatch.setattr(context, "refusal", lambda address, seconds=2.0: None)
    monkeypatch.setattr(members, "ask", ask)
    for name in ("PACELINE_CONNECT", "PACELINE_DIR", "PACELINE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PACELINE_CONNECT", "127.0.0.1:4001")
    return client
