"""Lost writes for the command line: asked of a running cluster, or read from the files of a stopped node; as text.

A running node computes rows, because it can pin its database; from files alone there are the requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from paceline.cli.context import Target, open_client
from paceline.cli.text import human_bytes, plural
from paceline.errors import Unavailable, UsageError

__all__ = ["lines", "list_of", "matches", "short_id", "show_of"]

_SHOWN_ROWS = 20
_OFFLINE = "the node does not run; it computes rows when it does"


def short_id(id: str) -> str:
    """``18-20-d9a1010d``: first and last index, and enough of the last chain hash to tell ranges apart."""
    first, last, chain = id.split("-")
    return f"{int(first)}-{int(last)}-{chain[:8]}"


def matches(id: str, wanted: str) -> bool:
    """Whether a person means this range by ``wanted``: the beginning of the id, long or short."""
    return bool(wanted) and (id.startswith(wanted) or short_id(id).startswith(wanted))


def _reader(target: Target, name: str) -> Any:
    """The custody of a local node, None when its files are not here."""
    from paceline.files import RealFiles
    from paceline.node.start import Paths
    from paceline.server.lost import LostReader

    cluster = target.cluster
    if cluster is None or not any(node.name == name for node in cluster.nodes):
        return None
    return LostReader(RealFiles(), Paths(str(cluster.node_dir(name))).custody)


def list_of(target: Target, node: str | None, *, discarded: bool = False) -> dict[str, Any]:
    """``lost`` and ``nodes``, as the HTTP API answers; local nodes that do not run are read from disk."""
    try:
        with open_client(target.addresses) as client:
            answer: dict[str, Any] = client.ask("lost_list", **({"all": True} if discarded else {}))
    except Unavailable:
        if target.cluster is None:
            raise
        answer = {
            "lost": [],
            "nodes": [
                {"name": local.name, "state": "unreachable", "error": "it does not run"}
                for local in target.cluster.nodes
            ],
        }
    for member in answer["nodes"]:
        if member["state"] == "ok" or (reader := _reader(target, member["name"])) is None:
            continue
        answer["lost"] += [{"node": member["name"], **item} for item in reader.ranges(discarded=discarded)]
        member["state"] = "ok"
    if node is not None:
        if all(member["name"] != node for member in answer["nodes"]):
            names = ", ".join(member["name"] for member in answer["nodes"])
            raise UsageError(f"no member is called {node!r}", hint=f"members: {names}")
        answer["lost"] = [item for item in answer["lost"] if item["node"] == node]
        answer["nodes"] = [member for member in answer["nodes"] if member["name"] == node]
    answer["lost"].sort(key=lambda item: (item["time"] or "", item["node"], item["id"]))
    return answer


def show_of(target: Target, id: str, node: str, entries: list[int] | None = None) -> dict[str, Any]:
    """One range in full; with ``entries`` the rows of these, each by itself."""
    try:
        with open_client(target.addresses) as client:
            more = {} if entries is None else {"entries": entries}
            answer: dict[str, Any] = client.ask("lost_show", id=id, node=node, **more)
            return answer
    except Unavailable:
        reader = _reader(target, node)
        if reader is None:
            raise
        return {"node": node, **reader.show(id, None, None, _OFFLINE)}


# -- text ----------------------------------------------------------------------


def lines(shape: dict[str, Any]) -> Iterator[str]:
    """For people."""
    yield f"lost writes {short_id(shape['id'])}, kept by {shape['node']}"
    yield f"  why       {shape['reason'] or '-'}; taken out {shape['time']} in term {shape['term_now']}"
    span = f"{shape['first_index']} to {shape['last_index']}"
    yield f"  entries   {span}"
    yield f"  kept      {human_bytes(shape['bytes'])}, whole"
    yield f"  requests  {_acknowledgements(shape['requests'])}"
    for number, request in enumerate(shape["requests"], 1):
        yield ""
        yield from _request(number, request)
    yield ""
    yield from _rows(shape)


def _acknowledgements(requests: list[dict[str, Any]]) -> str:
    told = [request["acknowledged"] for request in requests]
    parts = [
        f"{count} {label}"
        for count, label in (
            (told.count(True), "acknowledged"),
            (told.count(False), "not acknowledged"),
            (told.count(None), "with acknowledgement unknown"),
        )
        if count
    ]
    return f"{len(requests)}" + (f": {', '.join(parts)}" if parts else "")


def _request(number: int, request: dict[str, Any]) -> Iterator[str]:
    told = {True: "acknowledged", False: "not acknowledged", None: "acknowledged: unknown"}[
        request["acknowledged"]
    ]
    identity = f"   id {request['request_id']}" if request["request_id"] else ""
    durability = request["durability"] or "unknown"
    yield f"request {number}   entry {request['index']}   durability {durability}   {told}{identity}"
    if request.get("problem"):
        yield f"  {request['problem']}"
    for statement in request["sql"] or ():
        yield f"  {' '.join(statement['sql'].split())}"
        if statement["args"]:
            yield f"    {json.dumps(statement['args'], ensure_ascii=False)}"
    if request["cut"]:
        yield "  (long values were cut when the request was logged)"


def _rows(shape: dict[str, Any]) -> Iterator[str]:
    if shape["rows"] is None:
        yield f"rows: not computed: {shape['rows_problem']}"
        return
    if not shape["rows"]:
        yield "rows: none differ before and after"
        return
    yield "rows before (-) and after (+) the lost writes, as the database was at the fork:"
    for table in shape["rows"]:
        yield f"  {table['table']} ({', '.join(table['columns'])})"
        if "schema" in table:
            for sign, side in (("-", "before"), ("+", "after")):
                if table["schema"][side] is not None:
                    yield f"    {sign} {' '.join(table['schema'][side].split())}"
        for change in table["changes"][:_SHOWN_ROWS]:
            for sign, side in (("-", "before"), ("+", "after")):
                if change[side] is not None:
                    yield f"    {sign} {json.dumps(change[side], ensure_ascii=False)}"
        hidden = len(table["changes"]) - _SHOWN_ROWS
        if table["more"]:
            yield f"    … and {plural(hidden, 'row')} more, and others besides"
        elif hidden > 0:
            yield f"    … and {plural(hidden, 'row')} more (--json shows them)"
