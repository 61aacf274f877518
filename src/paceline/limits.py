"""A limit on everything, in one place, each with its unit last in the name.

Nothing else in the code invents a bound.  Those that a user may change are
also settings (``config.py``); these are their defaults and their ceilings.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# the log
SEGMENT_BYTES: Final = 64 * MIB
ENTRY_BODY_BYTES_MAX: Final = 8 * MIB
"""An entry's body on disk and wire.  Larger transactions are split into parts."""
PART_RAW_BYTES: Final = 2 * MIB
"""Raw page bytes in one part of a split transaction."""
LOG_TAIL_CACHE_BYTES: Final = 16 * MIB
"""Recent entries kept in memory for followers that are nearly up to date."""
LOG_UNSYNCED_BYTES_MAX: Final = 32 * MIB
"""Staged but not yet durable; beyond it the writer waits."""
LOG_RESERVE_BYTES: Final = 2 * SEGMENT_BYTES
"""With less free space than this a leader hands over before the disk is full."""
RETENTION_BYTES: Final = 1024 * MIB
RETENTION_SECONDS: Final = 7 * 24 * 3600

START_BYTES_MIN: Final = 256 * KIB
"""Free space without which a node does not even start: SQLite could not open its shared index."""

# replication
APPEND_BYTES_MAX: Final = 1 * MIB
"""Entries in one append message (one entry may exceed it, up to its own limit)."""
INFLIGHT_BYTES_MAX: Final = 16 * MIB
INFLIGHT_MESSAGES_MAX: Final = 256
PEER_FRAME_BYTES_MAX: Final = 16 * MIB
HEARTBEAT_MS: Final = 100
ELECTION_TIMEOUT_MS: Final = 600
"""A follower that hears nothing for this long, or up to twice as long (drawn), calls an election."""
TICK_MS: Final = 20
DEGRADE_AFTER_MS: Final = 1_000
DEGRADE_AFTER_MS_MIN: Final = 10
DEGRADE_AFTER_MS_MAX: Final = 3_600_000
"""How long a write waits for its durability before the cluster lets the level fall back, when it is told to."""

# groups, requests, clients
GROUP_REQUESTS_MAX: Final = 500
GROUP_GATHER_MS: Final = 2
"""How long a group waits for the clients that were just answered."""
WRITE_QUEUE_MAX: Final = 20_000
STATEMENTS_MAX: Final = 10_000
"""Statements in one request."""
SQL_BYTES_MAX: Final = 1 * MIB
ARGS_MAX: Final = 32_766
CLIENT_FRAME_BYTES_MAX: Final = 512 * MIB
CLIENT_FRAME_BYTES_BEFORE_HELLO: Final = 4 * KIB
HTTP_BODY_BYTES_MAX: Final = 512 * MIB
RESULT_BYTES_MAX: Final = 64 * MIB
RESULT_ROWS_MAX: Final = 1_000_000
CLIENT_CONNECTIONS_MAX: Final = 10_000
CLIENT_INFLIGHT_MAX: Final = 4_096
"""Requests of one connection that are not answered yet; beyond it the server reads no more from it."""
CLIENT_INFLIGHT_BYTES_MAX: Final = 64 * MIB
"""The same in bytes of requests (a single larger request is still taken)."""
CLIENT_QUERIES_MAX: Final = 64
"""Queries of one connection that run at the same time; the others wait."""
CLIENT_UNSENT_BYTES_MAX: Final = 4 * MIB
"""Replies that a connection has not taken; beyond it the server reads and starts nothing more for it."""
CLIENT_UNSENT_BYTES_ABORT: Final = 512 * MIB
"""Beyond this the connection is cut: replies of requests under way may exceed the bound above, not this one."""
CLIENT_HELLO_SECONDS: Final = 10.0
CLIENT_LINGER_SECONDS: Final = 1.0
"""How long a refused connection may read its error before it is closed."""
CLIENT_CONNECT_SECONDS: Final = 3.0
CLIENT_CONNECT_SECONDS_MIN: Final = 0.75
"""Patience with one address in the first round of a search; it doubles while addresses stay silent."""
CLIENT_SUSPECT_SECONDS: Final = 1.0
"""A leader that owes an answer for so long is asked about: does another member know a newer one?"""
CLIENT_ELECTION_BACKOFF_SECONDS_MAX: Final = 0.1
"""Longest pause while members answer and only the leader is missing: an election takes about a second."""
FORWARD_PATIENCE_SECONDS: Final = 3.0
"""How long a follower that knows no leader keeps a request, before it says so."""
DEPOSED_PATIENCE_SECONDS: Final = 0.5
"""The same for a node that has just lost its leadership: it may be cut off from the rest."""
CLIENT_CALLS_MAX: Final = 100_000
"""Requests that one client object keeps open."""
CLIENT_EVENTS_MAX: Final = 1_000
"""Events that a client object buffers for its user before it stops reading."""
CLIENT_BACKOFF_SECONDS_MIN: Final = 0.02
CLIENT_BACKOFF_SECONDS_MAX: Final = 1.0
CLIENT_ANSWER_GRACE_SECONDS: Final = 0.25
"""A client waits this much longer than the time limit it gave the server: a late 'no' beats 'unknown'."""
LOST_HISTORY_BYTES_MAX: Final = 64 * MIB
"""Log since the fork that is read to compute the rows of lost writes; beyond it only their SQL is shown."""
LOST_DATABASE_BYTES_MAX: Final = 64 * MIB
"""Size of a database up to which these rows are computed (it is copied twice)."""
LOST_ROWS_MAX: Final = 100
"""Changed rows of one table that are shown."""
LOST_CHECK_ENTRIES_MAX: Final = 16
"""Lost entries whose rows are computed one by one (each costs two copies of the database)."""
HTTP_HEAD_BYTES_MAX: Final = 64 * KIB
HTTP_HEARTBEAT_SECONDS: Final = 15.0
REQUEST_ID_BYTES_MAX: Final = 64
TIMEOUT_MS_DEFAULT: Final = 30_000
TIMEOUT_MS_MAX: Final = 24 * 3600 * 1000
DEDUP_COUNT: Final = 100_000
"""Request ids remembered for exactly-once."""
DEDUP_SECONDS: Final = 3600
DEDUP_RESULT_BYTES_MAX: Final = 4 * KIB
DEDUP_SESSIONS: Final = 10_000
"""Sessions of which it is known up to where their request ids were forgotten."""
ID_GAP: Final = 100_000
"""Ids of each AUTOINCREMENT table that a new reign leaves out (decision 0011)."""
ID_GAP_MAX: Final = 1_000_000_000_000

# engine
CHECKPOINT_FRAMES: Final = 4_000
APPLY_INTERVAL_MS: Final = 8
"""Under load a follower merges what arrives within this time; when idle it applies at once."""
APPLY_PAGES_MAX: Final = 2_000
"""Pages merged into one apply (a single transaction may be larger)."""
APPLY_BYTES_MAX: Final = 8 * MIB
"""Page images that an apply holds in memory; what is larger is streamed to the write-ahead log."""
PAGE_BODY_RAW_BYTES_MAX: Final = 16 * MIB
"""A page body after decompression."""
PAGE_CACHE_BYTES: Final = 16 * MIB
"""Recent page images kept for deltas."""

# snapshots
SNAPSHOT_RANGE_PAGES: Final = 1_024
SNAPSHOT_SESSIONS_MAX: Final = 4
SNAPSHOT_PIN_SECONDS_MAX: Final = 3600
"""A session that holds its pin longer is ended; the receiver resumes with a newer pin."""
SNAPSHOT_RANGE_BYTES: Final = 4 * MIB
"""Raw bytes of one range (fewer units when they are large)."""
SNAPSHOT_RANGES_INFLIGHT: Final = 4
SNAPSHOT_UNIT_BYTES_MAX: Final = 1 * MIB
SNAPSHOT_UNITS_MAX: Final = 2**32 - 2
"""SQLite's own limit of pages; a larger number in an offer is a damaged message."""
SNAPSHOT_IDLE_SECONDS_MAX: Final = 60
"""Silence of the other side after which a transfer counts as broken."""
SNAPSHOT_BACKOFF_SECONDS: Final = 0.25
SNAPSHOT_BACKOFF_SECONDS_MAX: Final = 30.0

# SQLite
VALUE_BYTES_MAX: Final = 256 * MIB
"""One text or blob (SQLite's own ceiling is 1 GB)."""
STATEMENT_CACHE_COUNT: Final = 256
"""Prepared statements kept per connection."""
STATEMENT_TEXT_CACHE_BYTES: Final = 4 * MIB
"""Classified SQL texts kept per engine."""
FOREIGN_LOCK_MS_MAX: Final = 5_000
"""How long the leader waits when another program holds its file's write lock."""
