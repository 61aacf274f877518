"""Running one group of requests in SQLite: each request all or nothing, the group one transaction.

Theory of operation
- Each request runs inside a SAVEPOINT; a request that fails is rolled back to
  it and its neighbours are not touched.  Before RELEASE the count of deferred
  foreign-key violations must be zero, because they would fail only at COMMIT,
  for everybody.
- SQLite can end the whole transaction on its own (interrupt, disk full, OR
  ROLLBACK, RAISE(ROLLBACK)).  Then all results of the group are void: the
  culprit gets its error and the others run again.  When that happens a second
  time, or when COMMIT itself fails, the requests run *singly*, a transaction
  each, all under the same position: cost stays linear, and each failure
  finds its culprit.  They still are one entry.
- Nothing leaves before COMMIT.
- The position is set in the same transaction.  A group in which no request
  that may write succeeded is rolled back and leaves no entry.
- VACUUM cannot run in a transaction: the position is committed first, then it
  runs, and both are captured as one entry.
- Between groups the connection holds BEGIN IMMEDIATE, so another program that
  writes the leader's file gets 'database is locked'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import apsw

from paceline.engines.base import Group, Outcome, StatementResult, TookTooLong, Value, WriteRequest
from paceline.engines.sqlite.authorizer import Authorizer
from paceline.engines.sqlite.connect import EngineOptions, open_writer
from paceline.engines.sqlite.control import control
from paceline.engines.sqlite.dedup import Dedup
from paceline.engines.sqlite.functions import TermFunction
from paceline.engines.sqlite.idgap import IdGap
from paceline.engines.sqlite.position import PositionWriter, check_cluster, read_position
from paceline.engines.sqlite.results import RowCursor
from paceline.engines.sqlite.sqlerrors import RUN_ERRORS, verdict
from paceline.engines.sqlite.statements import Statement, Statements
from paceline.engines.sqlite.values import check_args
from paceline.errors import PacelineError, RequestExpired, SqlError, TimedOut, Unavailable, UsageError
from paceline.ids import DatabasePosition
from paceline.limits import (
    FOREIGN_LOCK_MS_MAX,
    REQUEST_ID_BYTES_MAX,
    RESULT_BYTES_MAX,
    RESULT_ROWS_MAX,
    STATEMENTS_MAX,
)

__all__ = ["Writer"]

_BEGIN: Final = control("BEGIN IMMEDIATE")
_COMMIT: Final = control("COMMIT")
_ROLLBACK: Final = control("ROLLBACK")
_SAVEPOINT: Final = control("SAVEPOINT request")
_RELEASE: Final = control("RELEASE request")
_ROLLBACK_TO: Final = control("ROLLBACK TO request")
_VACUUM: Final = control("VACUUM")
_FK_AT_ONCE: Final = control("PRAGMA defer_foreign_keys = OFF")
_DATA_VERSION: Final = control("PRAGMA data_version")
_PROGRESS_STEPS: Final = 4_000
"""Virtual machine steps between two looks at the clock: some 50 us."""


class _TransactionLost(Exception):
    """SQLite ended the group's transaction while request number ``culprit`` ran."""

    def __init__(self, culprit: int, error: PacelineError) -> None:
        super().__init__(error.message)
        self.culprit = culprit
        self.error = error


class _CommitFailed(Exception):
    """COMMIT failed; nobody knows yet because of whom."""

    def __init__(self, error: PacelineError) -> None:
        super().__init__(error.message)
        self.error = error


class Writer:
    """The leader's only writing connection.  One thread at a time."""

    def __init__(
        self,
        path: str,
        *,
        options: EngineOptions,
        cluster: str,
        statements: Statements,
        monotonic: Callable[[], float],
    ) -> None:
        self.connection = connection = open_writer(path, options)
        self.foreign_commits = 0
        self._statements = statements
        self._classified: dict[str, Statement] = {}
        """Of the group that runs."""
        self._monotonic = monotonic
        self._deadline: float | None = None
        self._give_up_at: float | None = None
        self._check_foreign_keys = options.foreign_keys
        self._auth = Authorizer()
        self._control = connection.cursor().execute
        self._release = connection.cursor().execute
        self._plain = connection.cursor().execute
        self._rows = RowCursor(connection)
        self._term = TermFunction(connection)
        try:
            check_cluster(connection, cluster)
            self._position = PositionWriter(connection, cluster)
            self._dedup = Dedup(connection, monotonic=monotonic)
            self._id_gap = IdGap(connection, read_position(connection))
            self._data_version = self._read_data_version()
        except BaseException:
            connection.close()
            raise
        connection.set_authorizer(self._auth)
        connection.set_progress_handler(self._past_deadline, _PROGRESS_STEPS)

    def close(self) -> None:
        self.release()
        self.connection.close(True)

    # holding the write lock ------------------------------------------------

    def hold(self, *, wait: bool) -> None:
        """Take SQLite's write lock.

        When another program keeps it: ``Unavailable`` after a wait; without ``wait`` nothing, the next group waits.
        """
        if self.connection.in_transaction:
            return
        self.connection.set_busy_timeout(FOREIGN_LOCK_MS_MAX if wait and self._give_up_at is None else 0)
        try:
            self._run_control(_BEGIN)
        except apsw.Error as error:
            if self._give_up_at is not None:
                raise TookTooLong from error
            failure = self._not_held(error)
            if wait:
                raise failure from error
            return
        version = self._read_data_version()
        if version != self._data_version:
            self._data_version = version
            self.foreign_commits += 1

    def _not_held(self, error: apsw.Error) -> PacelineError:
        if isinstance(error, apsw.BusyError):
            return Unavailable(
                f"another program holds the write lock of {self.connection.filename}",
                hint="write through the leader; programs of your own may read the file",
            )
        return verdict(error, connection=self.connection, statement=0)

    def release(self) -> None:
        """Give the write lock back (checkpoint, VACUUM, end of the reign)."""
        if self.connection.in_transaction:
            self._run_control(_ROLLBACK)

    def position(self) -> DatabasePosition | None:
        self._auth.trusted = True
        try:
            return read_position(self.connection)
        finally:
            self._auth.trusted = False

    def _read_data_version(self) -> int:
        return int(self.connection.execute(_DATA_VERSION).get)

    def _run_control(self, sql: str) -> None:
        self._auth.trusted = True
        try:
            self._control(sql)
        finally:
            self._auth.trusted = False

    # a group ---------------------------------------------------------------

    def run(self, group: Group) -> tuple[list[Outcome], bool]:
        """Run and commit.  Returns the outcomes and whether anything was committed."""
        outcomes: list[Outcome | None] = [None] * len(group.requests)
        self._give_up_at = group.give_up_at
        self._term.term = group.slot.term
        try:
            changed = self._attempts(group, outcomes)
        except TookTooLong:
            self.release()
            raise
        except Unavailable as error:
            _fill(outcomes, error)
            changed = False
        else:
            self._vacuum(group, outcomes)
        finally:
            self._give_up_at = None
        return [outcome for outcome in outcomes if outcome is not None], changed

    def _attempts(self, group: Group, outcomes: list[Outcome | None]) -> bool:
        """Together; together without the culprit; singly.  Raises ``Unavailable`` before anything ran."""
        known: list[Outcome | None] = [None] * len(outcomes)
        for _ in range(2):
            outcomes[:] = known
            try:
                return self._together(group, outcomes)
            except _TransactionLost as lost:
                known[lost.culprit] = Outcome(error=lost.error)
            except _CommitFailed:
                break
        outcomes[:] = known
        return self._singly(group, outcomes)

    def _together(self, group: Group, outcomes: list[Outcome | None]) -> bool:
        """All requests that have no outcome yet, in one transaction."""
        self._start_over(group)
        changed = False
        for number, request in enumerate(group.requests):
            if outcomes[number] is None:
                outcomes[number], wrote = self._request(number, request, group)
                changed |= wrote
        return self._finish(group, changed)

    def _singly(self, group: Group, outcomes: list[Outcome | None]) -> bool:
        """Each request without outcome in a transaction of its own, all under one position."""
        self._give_up_at = None  # from the first commit on there is no way back
        changed = False
        for number, request in enumerate(group.requests):
            if outcomes[number] is None:
                try:
                    outcomes[number], committed = self._alone(number, request, group)
                except Unavailable as error:
                    _fill(outcomes, error)  # one wait for a foreign lock is enough
                    break
                changed |= committed
        return changed

    def _alone(self, number: int, request: WriteRequest, group: Group) -> tuple[Outcome, bool]:
        try:
            self._start_over(group)
            outcome, wrote = self._request(number, request, group)
            return outcome, self._finish(group, wrote)
        except (_TransactionLost, _CommitFailed) as lost:
            return Outcome(error=lost.error), False

    def _start_over(self, group: Group) -> None:
        """A clean transaction, whatever became of the one before; raises ``Unavailable`` as ``hold`` does."""
        self._deadline = None
        self._classified.clear()
        self._dedup.begin()
        self.hold(wait=True)
        self._auth.trusted = True
        try:
            self._id_gap.leave(group.slot, group.id_gap)
        except apsw.Error as error:
            failure = verdict(error, connection=self.connection, statement=0)
            if self.connection.in_transaction:
                self._control(_ROLLBACK)
            raise _CommitFailed(failure) from error
        finally:
            self._auth.trusted = False

    def _finish(self, group: Group, changed: bool) -> bool:
        """Set the position and commit; or leave the transaction empty for the next group."""
        self._deadline = None
        if not changed:
            self.release()
            return False
        self._auth.trusted = True
        try:
            self._position.set(group.slot)
            self._dedup.write(group.slot.index)
            self._control(_COMMIT)
        except apsw.Error as error:
            if self.connection.in_transaction:
                self._control(_ROLLBACK)
            raise _CommitFailed(verdict(error, connection=self.connection, statement=0)) from error
        finally:
            self._auth.trusted = False
        self._position.committed()
        self._id_gap.committed(group.slot)
        self._dedup.committed()
        return True

    # one request -----------------------------------------------------------

    def _request(self, number: int, request: WriteRequest, group: Group) -> tuple[Outcome, bool]:
        """Run one request to its RELEASE; the flag says whether it may have changed something."""
        request_id = request.request_id
        if request_id is not None:
            if not 0 < len(request_id) <= REQUEST_ID_BYTES_MAX:
                return _bad_id(request_id), False
            known = self._dedup.find(request_id, group.slot.index)
            if known is not None:
                return Outcome(results=known[1], repeated_at=known[0]), False
            if self._dedup.expired(request_id):
                return _expired(), False
        try:
            statements = self._prepare(request)
        except PacelineError as error:
            return Outcome(error=error), False
        if statements[0].vacuum:
            return Outcome(), True  # _vacuum completes it after the commit
        outcome, wrote = self._run(number, statements, request)
        if wrote and request_id is not None and outcome.results is not None:
            self._dedup.remember(request_id, outcome.results)
        return outcome, wrote

    def _prepare(self, request: WriteRequest) -> list[Statement]:
        """Classify all statements before the first one runs."""
        count = len(request.statements)
        if not 0 < count <= STATEMENTS_MAX:
            raise UsageError(f"a request has 1 to {STATEMENTS_MAX} statements, this one has {count}")
        deadline = request.deadline
        if deadline is not None and self._monotonic() >= deadline:
            raise TimedOut("the request's time limit passed before it ran; nothing was done")
        if count == 1:
            return [self._classify(request.statements[0][0])]
        statements = [self._classify(sql) for sql, _ in request.statements]
        if any(statement.vacuum for statement in statements):
            raise UsageError("VACUUM cannot share a transaction", hint="send VACUUM as a request of its own")
        return statements

    def _classify(self, sql: str) -> Statement:
        found = self._classified.get(sql) if type(sql) is str else None
        if found is None:
            found = self._statements.get(sql)
            self._classified[sql] = found
        return found

    def _run(self, number: int, statements: list[Statement], request: WriteRequest) -> tuple[Outcome, bool]:
        auth, connection = self._auth, self.connection
        place, args = 0, None
        results: list[StatementResult] = []
        wrote = False
        connection.set_last_insert_rowid(0)  # nobody sees a neighbour's
        auth.trusted = True
        self._control(_SAVEPOINT)
        auth.trusted = False
        give_up_at, deadline = self._give_up_at, request.deadline
        self._deadline = (
            deadline if give_up_at is None or (deadline and deadline < give_up_at) else give_up_at
        )
        try:
            room = RESULT_BYTES_MAX
            for statement, (_, args) in zip(statements, request.statements, strict=True):
                place += 1
                args = check_args(args, place)
                result, weight = self._statement(statement, args, room)
                room -= weight
                results.append(result)
                wrote |= statement.writes
            self._before_release(statements)
            auth.trusted = True
            self._release(_RELEASE)
        except RUN_ERRORS as error:
            auth.trusted = False
            if self._give_up_at is not None and self._monotonic() >= self._give_up_at:
                raise TookTooLong from error
            failure = verdict(error, connection=connection, statement=place, args=args)
            self._undo_request(number, failure)
            return Outcome(error=failure), False
        finally:
            auth.trusted = False
            self._deadline = None
        return Outcome(results=results), wrote

    def _statement(self, statement: Statement, args: Any, room: int) -> tuple[StatementResult, int]:
        """Run one statement; ``room`` is what is left for result bytes, the second value what it took."""
        connection = self.connection
        columns: list[str] | None = None
        rows: list[list[Value]] | None = None
        weight = 0
        if statement.returns_rows:
            rows, weight = self._rows.run(statement.sql, args, rows_max=RESULT_ROWS_MAX, bytes_max=room)
            columns = self._rows.columns
            if not columns:  # a PRAGMA that only sets
                columns, rows = None, None
        else:
            self._plain(statement.sql, args)
        result = StatementResult(
            connection.last_insert_rowid() if statement.inserts else 0,
            connection.changes() if statement.counts_rows else 0,
            columns,
            rows,
        )
        return result, weight

    def _before_release(self, statements: list[Statement]) -> None:
        """Everything that would fail only at COMMIT must fail here, for this request alone."""
        connection = self.connection
        if not connection.in_transaction:
            # Cannot be reached by SQL that the authorizer lets pass; if it were, no result may leave.
            raise SqlError(
                "the request ended its transaction", code=1, extended=1, name="SQLITE_ERROR", statement=None
            )
        if self._check_foreign_keys:
            if connection.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0]:
                raise SqlError(
                    "FOREIGN KEY constraint failed",
                    code=apsw.SQLITE_CONSTRAINT,
                    extended=apsw.SQLITE_CONSTRAINT_FOREIGNKEY,
                    name="SQLITE_CONSTRAINT_FOREIGNKEY",
                    hint="a deferred foreign key is still violated at the end of the request",
                )
            if any(statement.verb == "PRAGMA" for statement in statements):
                self._run_control(_FK_AT_ONCE)

    def _undo_request(self, number: int, failure: PacelineError) -> None:
        """Roll back to the savepoint; the whole group is lost when SQLite already ended it."""
        if not self.connection.in_transaction:
            raise _TransactionLost(number, failure)
        self._deadline = None
        self._auth.trusted = True
        try:
            self._control(_ROLLBACK_TO)
            self._release(_RELEASE)
            if self._check_foreign_keys:
                self._control(_FK_AT_ONCE)
        finally:
            self._auth.trusted = False

    # VACUUM ----------------------------------------------------------------

    def _vacuum(self, group: Group, outcomes: list[Outcome | None]) -> None:
        """Run VACUUM once for all requests of the group that asked for it."""
        waiting = [
            (outcome, request)
            for outcome, request in zip(outcomes, group.requests, strict=True)
            if outcome is not None
            and outcome.results is None
            and outcome.error is None
            and outcome.repeated_at is None
        ]
        if not waiting:
            return
        limits = [request.deadline for _, request in waiting]
        self._deadline = None if None in limits else max(d for d in limits if d is not None)
        failure: PacelineError | None = None
        try:
            self._run_control(_VACUUM)
        except apsw.Error as error:
            failure = verdict(error, connection=self.connection, statement=1)
        finally:
            self._deadline = None
        for outcome, _ in waiting:
            outcome.error = failure
            outcome.results = None if failure else [StatementResult()]

    def _past_deadline(self) -> bool:
        return self._deadline is not None and self._monotonic() >= self._deadline


def _fill(outcomes: list[Outcome | None], error: PacelineError) -> None:
    """The same error for every request that has no outcome yet."""
    for number, outcome in enumerate(outcomes):
        if outcome is None:
            outcomes[number] = Outcome(error=error)


def _expired() -> Outcome:
    return Outcome(
        error=RequestExpired(
            "the request id is older than what the cluster remembers: whether the write was applied is no longer known, "
            "and it is not applied now",
            hint="look at the data; a new write needs a new request id",
        )
    )


def _bad_id(request_id: bytes) -> Outcome:
    return Outcome(
        error=UsageError(
            f"a request id has 1 to {REQUEST_ID_BYTES_MAX} bytes, this one has {len(request_id)}"
        )
    )
