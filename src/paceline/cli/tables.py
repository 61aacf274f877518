"""How a cluster looks in a terminal: the tables of ``status``, ``up`` and ``node list``.

They fit 80 columns with ordinary names and addresses; wider terminals get more
columns, never wider noise.  Colour says what words also say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from paceline.cli.members import Overview
from paceline.cli.text import human_bytes, human_ms, human_seconds, plural, short_position

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

__all__ = ["console", "members_table", "plain_table", "settings_view", "status_view"]

_ROLE_STYLES: Final = {"leader": "bold green", "follower": "cyan", "quarantined": "red"}


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def plain_table(*headers: str, right: tuple[str, ...] = ()) -> Table:
    """A table without frame: a rule under the header, two blanks between columns."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0)
    )
    for header in headers:
        table.add_column(header, no_wrap=True, justify="right" if header in right else "left")
    return table


def _health(text: str) -> str:
    from rich.markup import escape

    style = "green" if text == "ok" else "red" if text == "down" else "yellow"
    return f"[{style}]{escape(text)}[/]"


def _lag(row: dict[str, Any]) -> str:
    if not row["up"] or row["lag_entries"] is None:
        return "-"
    if row["lag_entries"] == 0:
        return "0"
    behind = f"{row['lag_entries']:,}"
    return behind if row["lag_ms"] is None else f"{behind} ({human_ms(row['lag_ms'])})"


def members_table(overview: Overview, width: int) -> Table:
    extra = [key for key, columns in (("address", 100), ("http", 120)) if width >= columns]
    heads = ("member", "role", "voting", "term", "position", "lag", "health")
    table = plain_table(*heads, *extra, right=("term", "lag"))
    table.columns[6].no_wrap = False
    table.columns[6].min_width = 12
    for row in overview.rows:
        style = _ROLE_STYLES.get(row["role"], "")
        table.add_row(
            f"[bold]{row['name']}[/]",
            f"[{style}]{row['role']}[/]" if style else row["role"],
            row["voting"],
            "-" if row["term"] is None else str(row["term"]),
            short_position(row["position"]),
            _lag(row),
            _health(row["health"] + _progress(row["progress"])),
            *(row[key] or "-" for key in extra),
        )
    return table


def _progress(progress: dict[str, Any] | None) -> str:
    if not progress or not progress.get("units_total"):
        return ""
    return f" {100 * progress['units_done'] / progress['units_total']:.0f}%"


def _headline(overview: Overview) -> str:
    view = overview.view
    if view is None:
        return "[red]no node answers[/]"
    leader = view.get("leader") or "[red]none[/]"
    writes = view.get("writes", "-")
    shown = writes if writes == "on" else f"[yellow]{writes}[/]"
    parts = [
        f"cluster [bold]{view.get('cluster', '-')}[/]",
        f"leader [bold]{leader}[/]",
        f"term {view.get('term', '-')}",
        f"durability {view.get('durability', '-')}",
        f"writes {shown}",
    ]
    return "   ".join(parts)


def _standing(overview: Overview) -> str:
    """Who may lead, and whether there is a majority to elect."""
    if overview.view is None:
        return ""
    reachable, count = overview.voters
    style = "green" if reachable == count else "yellow" if 2 * reachable > count else "red"
    shown = f"[{style}]{reachable} of {count}[/]"
    unreached = overview.view.get("unreached") or "-"
    if unreached == "degrade":
        unreached += f" ({overview.view.get('degrade_after_ms')} ms)"
    authority = overview.view.get("authority") or "-"
    return f"authority {authority}   voters reachable {shown}   unreached: {unreached}"


def _degraded(overview: Overview) -> str:
    levels = (overview.view or {}).get("degraded")
    if not levels:
        return ""
    return f"[yellow]degraded: {', '.join(levels)}[/] (answered by the leader's own disk until reached again)"


def _lost(overview: Overview) -> str:
    if not overview.lost:
        return ""
    requests = sum(int(lost.get("requests", 0)) for lost in overview.lost.values())
    nodes = ", ".join(overview.lost)
    return f"[yellow]{plural(requests, 'lost write')} in custody[/] of {nodes}: paceline lost list"


def _footline(overview: Overview) -> str:
    view = overview.view
    if view is None:
        return ""
    log, database = view.get("log") or {}, view.get("database") or {}
    parts = [
        f"committed {view.get('commit', '-')}",
        f"database {human_bytes(database['bytes'])}" if "bytes" in database else "",
        f"log {human_bytes(log['bytes'])}" if "bytes" in log else "",
        f"up {human_seconds(view['uptime_s'])}" if "uptime_s" in view else "",
        f"paceline {view['version']}" if "version" in view else "",
    ]
    return "[dim]" + "   ".join(part for part in parts if part) + "[/]"


def status_view(overview: Overview, width: int) -> RenderableType:
    """The whole of ``paceline status``."""
    from rich.console import Group

    heads = [_headline(overview), _standing(overview), _degraded(overview), _lost(overview)]
    parts: list[RenderableType] = [*(line for line in heads if line), ""]
    if overview.rows:
        parts.append(members_table(overview, width))
    foot = _footline(overview)
    return Group(*parts, *(["", foot] if foot else []))


def settings_view(report: dict[str, Any]) -> RenderableType:
    """The whole of ``paceline cluster show``."""
    from rich.console import Group
    from rich.markup import escape
    from rich.text import Text

    settings = report["settings"]
    policy = settings["unreached"]
    if policy == "degrade":
        policy += f" ({settings['degrade_after_ms']} ms)"
    head = (
        f"cluster [bold]{report['cluster']}[/]   leader [bold]{report['leader']}[/]   term {report['term']}"
    )
    heads = [
        f"{head}   {plural(len(report['members']), 'member')}, {plural(report['voters'], 'voter')}",
        f"durability [bold]{escape(settings['durability'])}[/]   unreached: {policy}   writes {settings['writes']}"
        f"   authority {settings['authority']}   id_gap {settings.get('id_gap', '-')}",
    ]
    if report["degraded"]:
        heads.append(f"[yellow]degraded: {escape(', '.join(report['degraded']))}[/]")
    table = plain_table("durability", "now", "an acknowledgement survives")
    table.columns[2].no_wrap = False
    for level in report["levels"]:
        now = "[green]yes[/]" if level["reachable"] else "[red]no[/]"
        mark = " *" if level["default"] else ""
        table.add_row(Text(level["durability"] + mark), now, Text(level["survives"]))
    notes = [Text(level["why"]) for level in report["levels"] if level["why"]]
    notes += [Text(note) for note in report["notes"]]
    notes.append(
        Text(
            "any, first, quorum and all also with +applied: the same failures, and a read on those nodes, "
            "at any level, sees the write"
        )
    )
    return Group(*heads, "", table, "", *notes)
