"""The cache's database: the only truth about what is kept. One SQLite file in WAL mode.

Owns the schema and the grouping of writes into transactions. Never decides anything: what to keep, share or delete
is said by `cache`. A write is committed when its await returns; a process that dies in between leaves either all of
it or nothing. Commits survive the death of the process; tag bumps also that of the machine.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import aiosqlite

from semantic_cache.clock import CacheClock
from semantic_cache.errors import CacheClosed, StoreError

SCHEMA_VERSION = 1
_CHUNK = 2_000
_VARIABLES = 500  # ids in one IN list
_LOG_PAGES = 4_000  # of 4 KiB: one write in some hundreds waits while the log is merged into the file

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) WITHOUT ROWID;
CREATE TABLE partitions (key BLOB PRIMARY KEY, tenant TEXT NOT NULL, template TEXT, parts TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
  id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, partition BLOB NOT NULL, exact BLOB NOT NULL, category TEXT NOT NULL,
  declared INTEGER NOT NULL, question TEXT, vector BLOB, digest TEXT, body BLOB, seconds REAL NOT NULL,
  tokens INTEGER NOT NULL, created REAL NOT NULL, expires REAL NOT NULL, bump INTEGER NOT NULL, author TEXT NOT NULL,
  shared INTEGER NOT NULL, origin TEXT NOT NULL, source INTEGER, hits INTEGER NOT NULL DEFAULT 0,
  last_hit REAL NOT NULL DEFAULT 0, quarantined REAL
);
CREATE INDEX entries_by_partition ON entries (partition);
CREATE INDEX entries_by_expiry ON entries (expires);
CREATE INDEX entries_by_source ON entries (source) WHERE source IS NOT NULL;
CREATE TABLE tags (tag TEXT NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (tag, entry)) WITHOUT ROWID;
CREATE INDEX tags_by_entry ON tags (entry);
CREATE TABLE bumps (tenant TEXT NOT NULL, tag TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (tenant, tag))
  WITHOUT ROWID;
CREATE TABLE labels (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, category TEXT NOT NULL, entry INTEGER NOT NULL, similarity REAL NOT NULL,
  correct INTEGER NOT NULL, source TEXT NOT NULL, digest TEXT NOT NULL
);
CREATE TABLE audit (
  id INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, tenant TEXT, entry INTEGER, principal TEXT, detail TEXT
);
"""

Statement: TypeAlias = tuple[str, Sequence[Any]]

EVERYWHERE = "*"
"""The tenant of a bump that is meant for all tenants."""

_STALE = """
  EXISTS (SELECT 1 FROM tags t JOIN bumps b ON b.tag = t.tag AND b.tenant IN (e.tenant, '*')
          WHERE t.entry = e.id AND b.number > e.bump)
"""


@dataclass(frozen=True, slots=True)
class EntryRow:
    """An entry as it is served: everything but its vector. `tags`: names without their versions."""

    id: int
    tenant: str
    partition: bytes
    exact: bytes
    category: str
    question: str | None
    body: bytes
    seconds: float
    tokens: int
    created: float
    expires: float
    bump: int
    author: str
    shared: bool
    origin: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IndexRow:
    """An entry as the index and the table need it at start. `source`: the entry whose body it shares."""

    id: int
    tenant: str
    partition: bytes
    exact: bytes
    category: str
    author: str
    shared: bool
    created: float
    expires: float
    hits: int
    last_hit: float
    seconds: float
    tokens: int
    size: int
    source: int | None
    embedded: bool


class _Connection(aiosqlite.Connection):
    """A connection that runs a whole transaction in one turn of its thread: going there and back costs more than
    most statements."""

    @classmethod
    async def to(cls, path: Path) -> _Connection:
        """Open a file."""
        connection = cls(lambda: sqlite3.connect(path, isolation_level=None), iter_chunk_size=64)
        await connection
        try:
            await connection.execute("PRAGMA journal_mode=WAL")
            await connection.execute("PRAGMA synchronous=NORMAL")
            await connection.execute("PRAGMA busy_timeout=5000")
            await connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        except BaseException:
            await connection.close()
            raise
        return connection

    async def transaction(self, statements: Sequence[Statement], *, durable: bool) -> None:
        """Commit all statements or none. Raises sqlite3.Error."""
        await self._execute(self._transaction, statements, durable)  # type: ignore[no-untyped-call]

    def _transaction(self, statements: Sequence[Statement], durable: bool) -> None:
        database = self._conn
        if durable:
            database.execute("PRAGMA synchronous=FULL")
        try:
            database.execute("BEGIN IMMEDIATE")
            for sql, run in groupby(statements, key=lambda s: s[0]):
                database.executemany(sql, [parameters for _, parameters in run])
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        finally:
            if durable:
                database.execute("PRAGMA synchronous=NORMAL")


class Store:
    """Two connections: one that writes, in groups, and one that reads beside it."""

    def __init__(self, writer: _Connection, reader: _Connection, clock: CacheClock) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._waiting: list[tuple[Sequence[Statement], bool, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: Path, clock: CacheClock) -> Store:
        """Open or create the database. Raises StoreError: not ours, of another version, or unusable."""
        path.parent.mkdir(parents=True, exist_ok=True)
        connections: list[_Connection] = []
        try:
            with clock.outside():
                for _ in range(2):
                    connections.append(await _Connection.to(path))
                await _prepare(connections[0], path)
                await connections[1].execute("PRAGMA query_only=ON")
        except (sqlite3.Error, StoreError) as error:
            for connection in connections:
                await connection.close()
            raise error if isinstance(error, StoreError) else StoreError(f"{path}: {error}") from error
        return cls(connections[0], connections[1], clock)

    # -- writing --------------------------------------------------------------------------------

    async def write(self, statements: Sequence[Statement], *, durable: bool = False) -> None:
        """Run statements as one transaction, together with what others write meanwhile; returns once committed.

        `durable`: on the disk, not only with the operating system. Raises StoreError (nothing was written).
        """
        if self._closed:
            raise CacheClosed("the cache is closed")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((statements, durable, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._drain(), name="cache-writer")
        await done

    async def _drain(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            error: BaseException | None = None
            try:
                with self._clock.outside():
                    statements = [s for statements, _, _ in group for s in statements]
                    await self._writer.transaction(statements, durable=any(d for _, d, _ in group))
            except Exception as failed:  # whatever it is, every waiter must hear of it
                error = StoreError(f"the cache's database refused a write: {failed}")
            for _, _, done in group:
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)

    # -- reading --------------------------------------------------------------------------------

    async def query(self, sql: str, parameters: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT. Raises StoreError."""
        if self._closed:
            raise CacheClosed("the cache is closed")
        try:
            with self._clock.outside():
                return [tuple(row) for row in await self._reader.execute_fetchall(sql, tuple(parameters))]
        except sqlite3.Error as error:
            raise StoreError(f"the cache's database refused a read: {error}") from error

    async def entries(self, ids: Sequence[int]) -> dict[int, EntryRow]:
        """The rows of these ids that exist and are not in quarantine."""
        found: dict[int, EntryRow] = {}
        for start in range(0, len(ids), _VARIABLES):
            some = ids[start : start + _VARIABLES]
            marks = ",".join("?" * len(some))
            rows = await self.query(
                "SELECT e.id, e.tenant, e.partition, e.exact, e.category, e.question, coalesce(e.body, o.body),"
                " e.seconds, e.tokens, e.created, e.expires, e.bump, e.author, e.shared, e.origin,"
                " (SELECT group_concat(tag, char(31)) FROM tags WHERE entry = e.id)"
                " FROM entries e LEFT JOIN entries o ON o.id = e.source"
                f" WHERE e.id IN ({marks}) AND e.quarantined IS NULL AND (e.source IS NULL OR o.quarantined IS NULL)",
                some,
            )
            for *fields, shared, origin, tags in rows:
                names = tuple(tags.split("\x1f")) if tags else ()
                row = EntryRow(*fields, bool(shared), origin, names)  # type: ignore[call-arg]
                found[row.id] = row
        return found

    async def index_rows(self) -> AsyncIterator[list[IndexRow]]:
        """All entries outside quarantine, partition by partition, in chunks."""
        last: tuple[bytes, int] = (b"", -1)
        while True:
            rows = await self.query(
                "SELECT id, tenant, partition, exact, category, author, shared, created, expires, hits, last_hit,"
                " seconds, tokens, coalesce(length(body), 0) + coalesce(length(question), 0) +"
                " coalesce(length(vector), 0), source, vector IS NOT NULL"
                " FROM entries WHERE (partition, id) > (?, ?) AND quarantined IS NULL"
                " ORDER BY partition, id LIMIT ?",
                (*last, _CHUNK),
            )
            if not rows:
                return
            last = (rows[-1][2], rows[-1][0])
            yield [
                IndexRow(*row[:6], bool(row[6]), *row[7:15], bool(row[15]))  # type: ignore[call-arg]
                for row in rows
            ]

    async def vectors(self, ids: Sequence[int], digest: str) -> list[tuple[int, bytes]]:
        """Half-precision vectors of these ids, as far as they were made by this embedder."""
        out: list[tuple[int, bytes]] = []
        for start in range(0, len(ids), _VARIABLES):
            some = ids[start : start + _VARIABLES]
            marks = ",".join("?" * len(some))
            rows = await self.query(
                f"SELECT id, vector FROM entries WHERE id IN ({marks}) AND digest = ? AND vector IS NOT NULL",
                (*some, digest),
            )
            out.extend((row[0], row[1]) for row in rows)
        return out

    async def drop_unservable(self, wall_s: float) -> None:
        """Delete what is past its time or older than a bump of one of its tags."""
        gone = f"e.expires <= ? OR {_STALE}"
        await self.write(
            [
                (f"DELETE FROM entries WHERE id IN (SELECT e.id FROM entries e WHERE {gone})", (wall_s,)),
                ("DELETE FROM entries WHERE source IS NOT NULL AND source NOT IN (SELECT id FROM entries)", ()),
                ("DELETE FROM tags WHERE entry NOT IN (SELECT id FROM entries)", ()),
                ("DELETE FROM partitions WHERE key NOT IN (SELECT partition FROM entries)", ()),
            ]
        )

    async def close(self) -> None:
        """Finish what is being written, then close. Later calls raise CacheClosed."""
        if self._closed:
            return
        self._closed = True
        if self._writing is not None:
            await self._writing
        with self._clock.outside():
            await self._reader.close()
            await self._writer.close()


async def _prepare(connection: aiosqlite.Connection, path: Path) -> None:
    """Create the schema in one transaction, or check that the one that is there is ours."""
    tables = {
        row[0] for row in await connection.execute_fetchall("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    if not tables:
        await connection.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} INSERT INTO meta VALUES ('schema', {SCHEMA_VERSION}); COMMIT;"
        )
        return
    if "meta" not in tables or "entries" not in tables:
        raise StoreError(f"{path} is not a semantic cache: it holds the tables {', '.join(sorted(tables))}")
    ((version,),) = await connection.execute_fetchall("SELECT value FROM meta WHERE key = 'schema'")
    if version != SCHEMA_VERSION:
        raise StoreError(f"{path} has schema {version}; this version of the cache reads {SCHEMA_VERSION}")
