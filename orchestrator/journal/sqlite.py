"""The journal in one SQLite file: write-ahead log, group commit, one writer task.

Owns the file. Never decides what is recorded.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiosqlite
import orjson

from orchestrator.clock import OrchestratorClock
from orchestrator.errors import JournalUnavailable
from orchestrator.journal.commit import Commit
from orchestrator.journal.journal import FaultListener
from orchestrator.journal.records import Accepted, Record, Row, WorkflowKept, decode, decode_workflow, encode

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE records (
  position INTEGER PRIMARY KEY,  -- order of commit
  program TEXT NOT NULL,
  kind TEXT NOT NULL,
  name TEXT,
  facts BLOB NOT NULL,
  payload BLOB NOT NULL
);
CREATE INDEX records_by_program ON records (program, position);
CREATE INDEX records_by_key ON records (name) WHERE kind = 'accepted' AND name IS NOT NULL;
CREATE INDEX programs_accepted ON records (program) WHERE kind = 'accepted';
CREATE INDEX programs_ended ON records (program) WHERE kind = 'ended';
"""

# A whole batch is one statement: sqlite3 gives the interpreter's lock away and takes it back once a statement, and
# each taking back may wait for the event loop's thread. `json_each` walks an index made by us; the client's bytes
# come as one blob that SQL only slices, so nothing in them can make the statement fail.
_INSERT = """
INSERT INTO records (program, kind, name, facts, payload)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
       substr(?2, json_extract(value, '$[3]'), json_extract(value, '$[4]')),
       substr(?2, json_extract(value, '$[3]') + json_extract(value, '$[4]'), json_extract(value, '$[5]'))
FROM json_each(?1) ORDER BY key
"""

_TRIM = """
DELETE FROM records WHERE program IN
  (SELECT program FROM records WHERE kind = 'ended' ORDER BY position DESC LIMIT -1 OFFSET ?)
"""


class Synchronous(StrEnum):
    """NORMAL: nothing is lost when the process dies, the last commits may be when the power fails. FULL: neither."""

    NORMAL = "NORMAL"
    FULL = "FULL"


class _Batch:
    """Records of one transaction to be: an index of (program, kind, name, offset, sizes) and all bytes in a row."""

    __slots__ = ("commit", "ends", "index", "parts", "size")

    def __init__(self) -> None:
        self.commit = Commit()
        self.index: list[tuple[str, str, str | None, int, int, int]] = []
        self.parts: list[bytes] = []
        self.size = 0
        self.ends = 0

    def add(self, row: Row) -> None:
        facts, payload = len(row.facts), len(row.payload)
        # substr counts bytes of a blob from 1
        self.index.append((row.program, row.kind, row.name, self.size + 1, facts, payload))
        self.parts += (row.facts, row.payload)
        self.size += facts + payload
        self.ends += row.kind == "ended"


class SqliteJournal:
    """Group commit: while one transaction is on its way to the disk, all new records gather in the next one.

    The file is locked for as long as it is open: a second server on it is refused, never corrupts it.
    Invariant: batches are written in the order of `append`; after a fault nothing is written any more.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        clock: OrchestratorClock,
        synchronous: Synchronous = Synchronous.NORMAL,
        keep_ended: int = 100_000,
        batch_bytes: int = 16 * 2**20,
    ) -> None:
        self._path = path
        self._clock = clock
        self._synchronous = synchronous
        self._keep_ended = keep_ended
        self._batch_bytes = batch_bytes
        self._db: aiosqlite.Connection | None = None
        self._batches: deque[_Batch] = deque()  # without the one on its way to the disk
        self._newest = Commit.of_nothing()
        self._work = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._fault: JournalUnavailable | None = None
        self._on_fault: FaultListener = lambda fault: None
        self._ends_since_trim = 0

    # -- opening and closing --------------------------------------------------------------------

    async def open(self, on_fault: FaultListener) -> None:
        """Open or create the file. Raises JournalUnavailable, which names the file and the cause."""
        self._on_fault = on_fault
        try:
            if str(self._path) != ":memory:":
                _check_writable(Path(self._path))
            with self._clock.outside():
                self._db = await aiosqlite.connect(self._path, isolation_level=None, timeout=0.0)
            await self._prepare()
        except (OSError, sqlite3.Error) as error:
            await self.abandon()
            locked = "database is locked" in str(error)
            cause = "another server has it open" if locked else str(error)
            raise JournalUnavailable(f"cannot open the journal {str(self._path)!r}: {cause}") from error
        self._writer = asyncio.create_task(self._write(), name="journal writer")

    async def _prepare(self) -> None:
        await self._query("PRAGMA locking_mode = EXCLUSIVE")
        await self._query("PRAGMA journal_mode = WAL")
        await self._query(f"PRAGMA synchronous = {self._synchronous}")
        await self._query("BEGIN EXCLUSIVE")  # takes the lock now, so that a second server is refused here
        version = (await self._query("PRAGMA user_version"))[0][0]
        if version == 0:
            for statement in _SCHEMA.split(";\n"):
                await self._query(statement)
            await self._query(f"PRAGMA user_version = {SCHEMA_VERSION}")
        await self._query("COMMIT")
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"it has format {version}, this server knows format {SCHEMA_VERSION}")

    async def close(self) -> None:
        """Write what is pending, then close. A second close is no error."""
        if self._writer is not None:
            # a fault was told through `on_fault`, and to everyone who waited
            with suppress(JournalUnavailable):
                await self._newest.committed()
        await self.abandon()

    async def abandon(self) -> None:
        """Close without writing what is pending: what a killed process leaves behind."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        db, self._db = self._db, None
        if db is not None:
            with self._clock.outside():
                await db.close()
        self._break(JournalUnavailable("the journal is closed"), tell=False)

    # -- writing --------------------------------------------------------------------------------

    def append(self, record: Record | WorkflowKept) -> Commit:
        """Put a record behind all earlier ones. Never blocks. Raises JournalUnavailable after a fault."""
        if self._fault is not None:
            raise self._fault
        batches = self._batches
        if not batches or batches[-1].size >= self._batch_bytes:
            batches.append(_Batch())
            self._newest = batches[-1].commit
            self._work.set()
        batch = batches[-1]
        batch.add(encode(record))
        return batch.commit

    async def _write(self) -> None:
        """The writer task: one transaction for all that gathered while the last one was written."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._batches:
                batch = self._batches.popleft()
                try:
                    await self._insert(batch)
                except Exception as error:  # whatever it is, nothing more can be promised, and nobody shall wait
                    self._batches.appendleft(batch)
                    self._break(JournalUnavailable(f"the journal {str(self._path)!r} cannot be written: {error}"))
                    return
                except BaseException:
                    self._batches.appendleft(batch)
                    raise
                batch.commit.succeed()

    async def _insert(self, batch: _Batch) -> None:
        await self._query(_INSERT, (orjson.dumps(batch.index), b"".join(batch.parts)))
        self._ends_since_trim += batch.ends
        if self._ends_since_trim > min(1000, self._keep_ended):
            self._ends_since_trim = 0
            await self._query(_TRIM, (self._keep_ended,))

    def _break(self, fault: JournalUnavailable, *, tell: bool = True) -> None:
        """From now on nothing is promised: everyone who waits is told, and everyone who comes."""
        if self._fault is not None:
            return
        self._fault = fault
        batches, self._batches = self._batches, deque()
        for batch in batches:
            batch.commit.fail(fault)
        if tell:
            self._on_fault(fault)

    # -- reading --------------------------------------------------------------------------------

    async def unfinished(self) -> tuple[str, ...]:
        """Programs that were accepted and have not ended, oldest first."""
        rows = await self._read(
            "SELECT program FROM records WHERE kind = 'accepted' AND program NOT IN"
            " (SELECT program FROM records WHERE kind = 'ended') ORDER BY position"
        )
        return tuple(row[0] for row in rows)

    async def records(self, program: str) -> tuple[Record, ...]:
        """Every durable record of a program, in order; none if it is unknown."""
        rows = await self._read(
            "SELECT program, kind, name, facts, payload FROM records WHERE program = ? ORDER BY position", (program,)
        )
        return tuple(decode(Row(*row)) for row in rows)

    async def find_key(self, key: str) -> Accepted | None:
        """The program that was accepted under an idempotency key."""
        rows = await self._read(
            "SELECT program, kind, name, facts, payload FROM records WHERE kind = 'accepted' AND name = ?", (key,)
        )
        for row in rows:
            record = decode(Row(*row))
            if isinstance(record, Accepted):
                return record
        return None

    async def workflows(self) -> tuple[WorkflowKept, ...]:
        """What was registered and removed, the newest of each name."""
        rows = await self._read(
            "SELECT program, kind, name, facts, payload FROM records WHERE program = '' AND kind = 'workflow'"
            " ORDER BY position"
        )
        kept = (decode_workflow(Row(*row)) for row in rows)
        return tuple({(one.tenant, one.name): one for one in kept}.values())

    async def _read(self, sql: str, parameters: Iterable[object] = ()) -> list[tuple[Any, ...]]:
        try:
            return await self._query(sql, parameters)
        except sqlite3.Error as error:
            raise JournalUnavailable(f"the journal {str(self._path)!r} cannot be read: {error}") from error

    async def _query(self, sql: str, parameters: Iterable[object] = ()) -> list[tuple[Any, ...]]:
        if self._db is None:
            raise self._fault or JournalUnavailable("the journal is not open")
        with self._clock.outside():
            rows = await self._db.execute_fetchall(sql, parameters)
        return [tuple(row) for row in rows]


def _check_writable(path: Path) -> None:
    """Raises OSError, with a plain reason, where SQLite would only say that it cannot open the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("ab").close()
