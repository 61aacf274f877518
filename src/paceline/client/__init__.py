"""Clients of a Paceline cluster over the native protocol: ``Client`` (blocking) and ``AsyncClient``."""

from paceline.client.aio import AsyncClient
from paceline.client.blocking import Client
from paceline.client.results import ExecuteResult, QueryResult, Receipt, StatementResult, Value

__all__ = [
    "AsyncClient",
    "Client",
    "ExecuteResult",
    "QueryResult",
    "Receipt",
    "StatementResult",
    "Value",
]
