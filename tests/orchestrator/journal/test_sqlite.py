"""What the journal took is there after a crash, in order and byte for byte; what it could not take, it says."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import JournalUnavailable
from orchestrator.journal import (
    Accepted,
    Ended,
    Extended,
    Failed,
    Intent,
    Recomputed,
    Record,
    Resumed,
    RunFacts,
    SqliteJournal,
    Synchronous,
    Written,
)
from orchestrator.journal.journal import FaultListener
from orchestrator.journal.records import decode, encode
from orchestrator.virtual_time import VirtualClock, run_virtually
from tenuto.wire import ErrorValue, ProgramStatus

Open = Callable[[], Awaitable[SqliteJournal]]
NAMES = st.from_regex(r"^[A-Za-z_][A-Za-z0-9_.\-]*\Z")
FACTS = RunFacts(2, 10, 4, 7, (("queue", 0.0, 0.5), ("decode", 0.5, 1.25)))


def written(program: str, call: str, value: bytes = b'"v"') -> Written:
    return Written(program, call, value, 3, 1.5, FACTS)


def accepted(program: str, key: str | None = None) -> Accepted:
    return Accepted(program, "tenant", 1.7e9, b'{"workflow":"w"}', "00-ab-cd-01", None, key, "hash")


@pytest.fixture(autouse=True)
async def _closed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Close every journal, also when a test fails: its thread would keep the interpreter alive."""
    journals: list[SqliteJournal] = []
    connect = SqliteJournal.open

    async def open(self: SqliteJournal, on_fault: FaultListener) -> None:
        journals.append(self)
        await connect(self, on_fault)

    monkeypatch.setattr(SqliteJournal, "open", open)
    yield
    for journal in journals:
        await journal.abandon()


@pytest.fixture
def open_journal(tmp_path: Path) -> Open:
    async def open_journal() -> SqliteJournal:
        journal = SqliteJournal(tmp_path / "journal.db", clock=VirtualClock())
        await journal.open(lambda fault: None)
        return journal

    return open_journal


RECORDS: list[Record] = [
    accepted("p", key="digest"),
    Extended("p", b'{"calls":[]}', 2, 0.25),
    Intent("p", "effect"),
    written("p", "a", '{"n": 123456789012345678901234567890, "s": "\\u0000 \\" é 🎵"}'.encode()),
    Failed("p", "b", ErrorValue(type="timeout", message="it took 'too' long\n", call="b", attempts=3), 9, 2.0, FACTS),
    written("p", "c")._replace(facts=FACTS._replace(behind=("w",), recompute=Recomputed(16, "expired", "a"))),
    Resumed("p", 2**33, 2.5),
    Ended("p", ProgramStatus.FAILED, 12, 3.0),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_what_it_was(record: Record) -> None:
    assert decode(encode(record)) == record


async def test_records_survive_a_crash_in_order_and_byte_for_byte(open_journal: Open) -> None:
    journal = await open_journal()
    other = [written("q", f"c{n}", b"") for n in range(3)]
    for record in (*RECORDS[:3], *other, *RECORDS[3:]):
        commit = journal.append(record)
    await commit.committed()
    await journal.abandon()
    journal = await open_journal()
    assert await journal.records("p") == tuple(RECORDS)
    assert await journal.records("q") == tuple(other)
    assert await journal.records("unknown") == ()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(st.tuples(NAMES, st.binary()), min_size=1), max_size=4))
def test_any_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, bytes]]]) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.db"

    async def run() -> None:
        journal = SqliteJournal(path, clock=VirtualClock())
        await journal.open(lambda fault: None)
        expected: list[Record] = []
        try:
            for batch in batches:
                for name, value in batch:
                    expected.append(written("p", name, value))
                    commit = journal.append(expected[-1])
                await commit.committed()
            assert await journal.records("p") == tuple(expected)
        finally:
            await journal.close()

    run_virtually(run())


async def test_what_gathers_while_one_transaction_is_written_goes_into_the_next(open_journal: Open) -> None:
    journal = await open_journal()
    first = journal.append(written("p", "0"))
    await asyncio.sleep(0)  # the writer takes the first batch
    await asyncio.sleep(0)
    later = [journal.append(written("p", str(n))) for n in range(1, 100)]
    assert first not in later and len(set(map(id, later))) == 1
    await later[-1].committed()
    assert first.durable and len(await journal.records("p")) == 100


async def test_callbacks_run_in_order_once_the_records_are_durable(open_journal: Open) -> None:
    journal = await open_journal()
    heard: list[int] = []
    for n in range(10):
        journal.append(written("p", str(n))).then(lambda n=n: heard.append(n))  # type: ignore[misc]
        await asyncio.sleep(0)
    assert len(heard) < 10
    await journal.close()
    assert heard == list(range(10))


async def test_a_batch_is_bounded(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", clock=VirtualClock(), batch_bytes=100)
    await journal.open(lambda fault: None)
    commits = {id(journal.append(written("p", str(n), b"x" * 60))) for n in range(10)}
    assert len(commits) == 10
    await journal.close()


async def test_closing_writes_what_is_pending_and_abandoning_does_not(open_journal: Open) -> None:
    journal = await open_journal()
    journal.append(written("p", "a"))
    await journal.close()
    journal = await open_journal()
    commit = journal.append(written("p", "b"))
    await journal.abandon()
    with pytest.raises(JournalUnavailable):
        await commit.committed()
    journal = await open_journal()
    assert [record.call for record in await journal.records("p")] == ["a"]  # type: ignore[union-attr]


async def test_unfinished_programs_are_those_accepted_and_not_ended(open_journal: Open) -> None:
    journal = await open_journal()
    for record in (accepted("z"), accepted("a"), written("z", "c"), accepted("m")):
        journal.append(record)
    await journal.append(Ended("a", ProgramStatus.SUCCEEDED, 1, 1.0)).committed()
    assert await journal.unfinished() == ("z", "m")


async def test_a_key_finds_its_program(open_journal: Open) -> None:
    journal = await open_journal()
    await journal.append(accepted("p", key="digest")).committed()
    found = await journal.find_key("digest")
    assert found is not None and found.program == "p"
    assert await journal.find_key("other") is None


async def test_a_full_disk_is_told_to_everyone_at_once(tmp_path: Path) -> None:
    faults: list[JournalUnavailable] = []
    journal = SqliteJournal(tmp_path / "journal.db", clock=VirtualClock())
    await journal.open(faults.append)
    await journal.append(written("p", "fits")).committed()
    await journal._query("PRAGMA max_page_count = 12")
    big = journal.append(written("p", "big", b"x" * 10**6))
    heard: list[str] = []
    big.then(lambda: heard.append("durable"))
    await asyncio.sleep(0)
    behind = journal.append(written("p", "behind"))
    for commit in (big, behind):
        with pytest.raises(JournalUnavailable, match=r"journal.db.*full"):
            await commit.committed()
    assert len(faults) == 1 and not heard
    with pytest.raises(JournalUnavailable, match="full"):
        journal.append(written("p", "after"))
    assert [record.call for record in await journal.records("p")] == ["fits"]  # type: ignore[union-attr]
    await journal.close()


async def test_a_listener_that_fails_keeps_no_other_from_hearing(
    open_journal: Open, caplog: pytest.LogCaptureFixture
) -> None:
    journal = await open_journal()
    heard: list[int] = []
    commit = journal.append(written("p", "a"))
    commit.then(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    commit.then(lambda: heard.append(1))
    await commit.committed()
    await journal.append(written("p", "b")).committed()
    assert heard == [1] and "ZeroDivisionError" in caplog.text


async def test_a_second_server_on_the_same_file_is_refused(open_journal: Open) -> None:
    first = await open_journal()
    with pytest.raises(JournalUnavailable, match="another server"):
        await open_journal()
    await first.append(written("p", "a")).committed()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: path.write_bytes(b"this is no database, however you look at it" * 50), "not a database"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: _set_version(path, 99), "format 99"),
    ],
)
async def test_a_file_that_is_no_journal_of_ours_is_refused(
    tmp_path: Path, prepare: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "journal.db"
    prepare(path)
    journal = SqliteJournal(path, clock=VirtualClock())
    with pytest.raises(JournalUnavailable, match=message):
        await journal.open(lambda fault: None)


def _set_version(path: Path, version: int) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {version}")


async def test_the_oldest_ended_programs_leave_the_file(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", clock=VirtualClock(), keep_ended=2)
    await journal.open(lambda fault: None)
    await journal.append(accepted("live")).committed()
    for n in range(6):
        journal.append(accepted(f"p{n}"))
        await journal.append(Ended(f"p{n}", ProgramStatus.SUCCEEDED, 1, 1.0)).committed()
    await journal.close()
    journal = SqliteJournal(tmp_path / "journal.db", clock=VirtualClock())
    await journal.open(lambda fault: None)
    kept = [n for n in range(6) if await journal.records(f"p{n}")]
    assert kept == [4, 5] and await journal.unfinished() == ("live",)
    await journal.close()


@pytest.mark.parametrize("synchronous", Synchronous)
async def test_the_synchronous_mode_is_the_one_asked_for(tmp_path: Path, synchronous: Synchronous) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", clock=VirtualClock(), synchronous=synchronous)
    await journal.open(lambda fault: None)
    code = {Synchronous.NORMAL: 1, Synchronous.FULL: 2}[synchronous]
    assert await journal._query("PRAGMA synchronous") == [(code,)]
    assert await journal._query("PRAGMA journal_mode") == [("wal",)]
    await journal.close()


async def test_a_journal_in_memory_works_alike() -> None:
    journal = SqliteJournal(":memory:", clock=VirtualClock())
    await journal.open(lambda fault: None)
    await journal.append(written("p", "a")).committed()
    assert len(await journal.records("p")) == 1
    await journal.close()
