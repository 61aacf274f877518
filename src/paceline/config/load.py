"""Read the sources, merge them, hand the result to the rules."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from paceline.config.keys import ENVIRONMENT, KEYS, bad_value, check, unknown_key
from paceline.config.rules import (
    advertised,
    authority_of,
    check_listeners,
    election_timeout_ms,
    founders,
    leader_of,
    listeners,
)
from paceline.config.shape import Member, NodeConfig, Settings
from paceline.errors import UsageError
from paceline.ids import check_node_name

__all__ = ["load"]


def _flatten(source: str, document: Mapping[str, Any]) -> dict[str, object]:
    """Dotted keys of a parsed file, each known and each of its kind."""
    flat: dict[str, object] = {}
    for key, value in document.items():
        if key in ("cluster", "settings"):
            if not isinstance(value, Mapping):
                raise bad_value(source, key, value, f"a table [{key}]")
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            flat[key] = value
    for key, value in flat.items():
        if key not in KEYS:
            raise unknown_key(source, key, list(KEYS))
        check(source, key, value, KEYS[key])
    return flat


def _read_file(path: str) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    return _flatten(path, document)


def _read_environment(env: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for variable, key in ENVIRONMENT.items():
        if variable in env:
            text, kind = env[variable], KEYS[key]
            try:
                value = kind.from_text(text)
            except ValueError:
                value = text
            found[key] = check("environment", variable, value, kind)
    return found


def load(
    path: str | None,
    overrides: Mapping[str, object] | None = None,
    *,
    env: Mapping[str, str] | None = None,
) -> NodeConfig:
    """Read, merge and check.  ``overrides`` has dotted keys (``cluster.leader``); None counts as not given.

    ``data`` is relative to the file, or to the working directory when a flag or the environment gives it.
    Raises :class:`UsageError`.
    """
    source = path or "configuration"
    flat = _read_file(path) if path else {}
    base = os.path.dirname(os.path.abspath(path)) if path else os.getcwd()
    if "data" in flat:
        flat["data"] = os.path.join(base, str(flat["data"]))
    flat |= _read_environment(os.environ if env is None else env)
    for key, value in (overrides or {}).items():
        if value is not None:
            if key not in KEYS:
                raise unknown_key("flags", key, list(KEYS))
            flat[key] = check("flags", key, value, KEYS[key])
    for key in ("name", "data"):
        if key not in flat:
            raise UsageError(f"{source}: {key} is missing", hint=f'set {key} = "..." or --{key}')
    return _assemble(source, path, flat)


def _assemble(source: str, path: str | None, flat: dict[str, object]) -> NodeConfig:
    name = check_node_name(str(flat["name"]))
    insecure = bool(flat.get("insecure", False))
    members = founders(source, flat, name)
    row = next((member for member in members if member.name == name), None)
    listen = listeners(source, flat, row)
    check_listeners(source, listen, insecure=insecure)
    told = advertised(source, flat, listen, row)
    join: Any = flat.get("cluster.join", ())
    if not members and not join:
        members = (
            Member(
                name=name, listen=told["advertise"], http=told["advertise_http"], peer=told["advertise_peer"]
            ),
        )
    settings = {key.removeprefix("settings."): v for key, v in flat.items() if key.startswith("settings.")}
    settings["election_timeout_ms"] = election_timeout_ms(source, flat)
    return NodeConfig(
        name=name,
        data=os.path.abspath(str(flat["data"])),
        **listen,
        **told,
        cluster=str(flat.get("cluster.name", "main")),
        leader=leader_of(source, flat, members),
        authority=authority_of(source, flat),
        members=members,
        join=tuple(join),
        insecure=insecure,
        settings=msgspec.convert(settings, Settings),
        path=os.path.abspath(path) if path else None,
    )
