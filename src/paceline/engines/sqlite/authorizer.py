"""What user SQL may not do, as tables.

SQLite asks the authorizer once for every action while it prepares a statement,
also for the actions of triggers and for re-preparation after a schema change.
The verdict is looked up: action -> free, guarded names, or refused with the
reason and what to do instead.  An action that is in no table is refused.

``trusted`` is set only while Paceline's own statements run (savepoints,
position, VACUUM's internals); user text runs with it off.
"""

from __future__ import annotations

from typing import Final

import apsw

from paceline.engines.sqlite.statements import RESERVED_PREFIX, words
from paceline.errors import Forbidden

__all__ = ["PRAGMA_LOOKUPS", "PRAGMA_READABLE", "PRAGMA_WRITABLE", "Authorizer"]

_FREE: Final = frozenset(
    {apsw.SQLITE_READ, apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE, apsw.SQLITE_REINDEX, apsw.SQLITE_ANALYZE}
)

_GUARDED: Final[dict[int, tuple[int, ...]]] = {
    apsw.SQLITE_CREATE_INDEX: (0, 1),
    apsw.SQLITE_CREATE_TABLE: (0,),
    apsw.SQLITE_CREATE_TRIGGER: (0, 1),
    apsw.SQLITE_CREATE_VIEW: (0,),
    apsw.SQLITE_CREATE_VTABLE: (0,),
    apsw.SQLITE_DROP_INDEX: (0, 1),
    apsw.SQLITE_DROP_TABLE: (0,),
    apsw.SQLITE_DROP_TRIGGER: (0, 1),
    apsw.SQLITE_DROP_VIEW: (0,),
    apsw.SQLITE_DROP_VTABLE: (0,),
    apsw.SQLITE_ALTER_TABLE: (1,),
    apsw.SQLITE_INSERT: (0,),
    apsw.SQLITE_UPDATE: (0,),
    apsw.SQLITE_DELETE: (0,),
}
"""Action -> which of its two arguments name something that must not be Paceline's."""

_CREATES: Final = frozenset(
    {
        apsw.SQLITE_CREATE_INDEX,
        apsw.SQLITE_CREATE_TABLE,
        apsw.SQLITE_CREATE_TRIGGER,
        apsw.SQLITE_CREATE_VIEW,
        apsw.SQLITE_CREATE_VTABLE,
    }
)
"""What ``temp.name`` reaches under these codes too."""

_TEMP: Final = (
    "temporary objects are not allowed: they would exist on one connection of one node",
    "use an ordinary table, or WITH",
)
_TRANSACTION: Final = (
    "transaction words are not allowed: each request is a transaction of its own",
    "send the statements of one transaction as one list",
)
_ATTACH: Final = (
    "ATTACH and DETACH are not allowed: only the cluster's own database is replicated",
    "import the other file into a cluster of its own",
)
_REFUSED: Final[dict[int, tuple[str, str]]] = {
    apsw.SQLITE_ATTACH: _ATTACH,
    apsw.SQLITE_DETACH: _ATTACH,
    apsw.SQLITE_TRANSACTION: _TRANSACTION,
    apsw.SQLITE_SAVEPOINT: _TRANSACTION,
    apsw.SQLITE_CREATE_TEMP_INDEX: _TEMP,
    apsw.SQLITE_CREATE_TEMP_TABLE: _TEMP,
    apsw.SQLITE_CREATE_TEMP_TRIGGER: _TEMP,
    apsw.SQLITE_CREATE_TEMP_VIEW: _TEMP,
    apsw.SQLITE_DROP_TEMP_INDEX: _TEMP,
    apsw.SQLITE_DROP_TEMP_TABLE: _TEMP,
    apsw.SQLITE_DROP_TEMP_TRIGGER: _TEMP,
    apsw.SQLITE_DROP_TEMP_VIEW: _TEMP,
}

_FUNCTIONS_REFUSED: Final = frozenset({"load_extension", "fts3_tokenizer"})

PRAGMA_LOOKUPS: Final = words(
    """table_info table_xinfo table_list index_list index_info index_xinfo foreign_key_list
    foreign_key_check integrity_check quick_check database_list collation_list function_list
    module_list pragma_list compile_options"""
)
"""Only read; an argument says what to look at."""

PRAGMA_READABLE: Final = words(
    """analysis_limit application_id auto_vacuum automatic_index busy_timeout cache_size cache_spill
    cell_size_check data_version defer_foreign_keys encoding foreign_keys freelist_count
    ignore_check_constraints journal_mode journal_size_limit legacy_alter_table locking_mode
    max_page_count mmap_size page_count page_size query_only recursive_triggers
    reverse_unordered_selects schema_version secure_delete synchronous temp_store threads
    trusted_schema user_version wal_autocheckpoint writable_schema"""
)
"""May be asked, without a value."""

PRAGMA_WRITABLE: Final = words(
    "user_version application_id incremental_vacuum optimize analysis_limit defer_foreign_keys"
)
"""May be set; inside the request's transaction, so it replicates and rolls back with it."""

_BY_CLUSTER: Final = "the cluster itself decides how its file is written"
_BY_OPTION: Final = "it is a setting of the cluster, equal for every connection"
_PRAGMA_REASONS: Final[dict[str, tuple[str, str]]] = {
    "journal_mode": (_BY_CLUSTER, "leave it out; the database is in WAL mode"),
    "locking_mode": (_BY_CLUSTER, "leave it out"),
    "wal_checkpoint": (_BY_CLUSTER, "leave it out; checkpoints run when the log is safe on disk"),
    "wal_autocheckpoint": (_BY_CLUSTER, "leave it out"),
    "synchronous": (_BY_CLUSTER, "choose the durability of the write instead"),
    "writable_schema": ("it can corrupt the schema", "use ALTER TABLE"),
    "page_size": ("pages are replicated as they are", "set it in the file before it is imported"),
    "auto_vacuum": ("pages are replicated as they are", "set it in the file before it is imported"),
    "encoding": ("it is fixed when a database is made", "set it in the file before it is imported"),
    "foreign_keys": (
        _BY_OPTION,
        "set `foreign_keys` in paceline.toml; for one request use defer_foreign_keys",
    ),
    "busy_timeout": (
        "requests queue at the leader and do not wait for locks",
        "set a timeout on the request",
    ),
}


class Authorizer:
    """The callable that SQLite asks.  Raises ``Forbidden``; APSW hands that to whoever ran the statement."""

    __slots__ = ("trusted",)

    def __init__(self) -> None:
        self.trusted = False

    def __call__(
        self, action: int, first: str | None, second: str | None, database: str | None, source: str | None
    ) -> int:
        if self.trusted or action in _FREE:
            return apsw.SQLITE_OK
        guarded = _GUARDED.get(action)
        if guarded is not None:
            for place in guarded:
                _check_name((first, second)[place])
            if action in _CREATES and database == "temp":
                raise Forbidden(_TEMP[0], hint=_TEMP[1])
        elif action == apsw.SQLITE_FUNCTION:
            _check_function(second)
        elif action == apsw.SQLITE_PRAGMA:
            _check_pragma((first or "").lower(), second)
        else:
            reason, hint = _REFUSED.get(action, (f"SQL action {action} is not known here", "leave it out"))
            raise Forbidden(reason, hint=hint)
        return apsw.SQLITE_OK


def _check_name(name: str | None) -> None:
    if name is not None and name.lower().startswith(RESERVED_PREFIX):
        raise Forbidden(
            f"{name} belongs to Paceline: it may be read, not changed",
            hint=f"names that start with {RESERVED_PREFIX} are reserved",
        )


def _check_function(name: str | None) -> None:
    if name is not None and name.lower() in _FUNCTIONS_REFUSED:
        raise Forbidden(
            f"the function {name}() is not allowed: it loads code into the server", hint="leave it out"
        )


def _check_pragma(name: str, value: str | None) -> None:
    if name in PRAGMA_LOOKUPS or name in PRAGMA_WRITABLE:
        return
    if value is None and name in PRAGMA_READABLE:
        return
    reason, hint = _PRAGMA_REASONS.get(
        name, ("it is not on the list of pragmas that replicate", "leave it out")
    )
    raise Forbidden(f"PRAGMA {name} is not allowed here: {reason}", hint=hint)
