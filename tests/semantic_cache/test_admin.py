from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from semantic_cache import Category, ConfirmationNeeded, InvalidRequest, Sharing, TransferError, admin
from semantic_cache.clock import ManualClock
from semantic_cache.policy import LEXICAL
from tenuto.wire import Sampling
from tests.semantic_cache.doubles import ChosenEmbedder, ask, at, hit, miss, opened, policies, put


def embedder() -> ChosenEmbedder:
    return ChosenEmbedder(a=at(1.0), b=at(0.95), c=at(0.82), d=at(0.3))


async def test_stats_tell_what_happened_by_category(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=embedder())
    await put(cache, ask("a"), "A", seconds=2.0, prompt_tokens=10, output_tokens=5)
    await hit(cache, ask("a"))
    await hit(cache, ask("b"))
    await miss(cache, ask("d"))
    stats = cache.stats()
    row = next(c for c in stats.categories if c.category == "plain")
    assert (row.lookups, row.exact_hits, row.semantic_hits, row.hit_rate) == (4, 1, 1, 0.5)
    assert (row.saved_s, row.saved_tokens, row.stored, row.entries) == (4.0, 30, 1, 1)
    assert row.misses == {"nothing_near": 2}
    assert (row.threshold, row.from_defaults, row.false_share) == (0.9, True, (0.0, 1.0))
    assert (stats.semantic, stats.entries, stats.partitions, stats.embedder_digest) == (True, 1, 1, "chosen")
    await cache.close()


async def test_explain_says_why_and_changes_nothing(tmp_path: Path) -> None:
    guarded = Category("guarded", similarity=0.9, ttl_s=60, quota=0.1, error_target=0.05, guards=LEXICAL)
    near = ChosenEmbedder(**{"5 a": at(1.0), "7 a": at(0.99), "5 b": at(0.85)})
    cache = await opened(tmp_path, embedder=near, categories=policies(guarded))
    entry = await put(cache, ask("5 a", category="guarded"))
    before = cache.stats()

    async def explained(question: str, **change: object) -> str:
        return (await cache.explain(ask(question, category="guarded", **change))).outcome

    assert await explained("5 a") == f"hit: exact, entry {entry}"
    assert await explained("7 a") == "miss: numbers: 7 against 5"
    assert await explained("5 b") == "miss: below the threshold"
    assert await explained("zzz") == "miss: nothing near"
    assert await explained("5 b", mode="exact") == "miss: exact tier only, unknown"
    assert await explained("5 a", effects=True) == "bypass: effects"
    told = await cache.explain(ask("5 b", category="guarded"))
    assert (told.rows, told.category, told.declared, told.threshold, told.ttl_s) == (1, "guarded", True, 0.9, 60.0)
    (candidate,) = told.candidates
    assert (candidate.entry, candidate.question, candidate.verdict) == (entry, "5 a", "0.850 under 0.900")
    assert cache.stats() == before
    own = await put(cache, ask("7 a", category="guarded"))
    told = await cache.explain(ask("7 a", category="guarded"))
    assert told.outcome == f"hit: exact, entry {own}"
    assert [c.verdict for c in told.candidates] == ["served", "numbers: 7 against 5"], "why it was not answered before"
    await cache.close()


async def test_explain_names_the_part_that_keeps_two_partitions_apart(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=embedder())
    await put(cache, ask("a"))
    told = await cache.explain(ask("a", sampling=Sampling(max_tokens=9), variables={"x": 1}))
    assert told.rows == 0
    assert [parts for _, parts in told.elsewhere] == [("sampling", "variables")]
    assert (await cache.explain(ask("a", tenant="u"))).elsewhere == ()
    await cache.close()


async def test_flush_needs_its_phrase(tmp_path: Path) -> None:
    other = Category("other", similarity=0.9, ttl_s=60, quota=0.1, error_target=0.05)
    cache = await opened(tmp_path, categories=policies(other))
    for tenant in ("t", "u"):
        await put(cache, ask("a", tenant=tenant))
        await put(cache, ask("b", tenant=tenant, category="other"))
    plan = await cache.flush(tenant="t", category="plain")
    assert (plan.entries, plan.done) == (1, False)
    with pytest.raises(ConfirmationNeeded, match="1 entries"):
        await cache.flush(tenant="t", category="plain", confirm="yes")
    assert (await cache.flush(tenant="t", category="plain", confirm=plan.confirm)).done
    await miss(cache, ask("a", tenant="t"))
    await hit(cache, ask("b", tenant="t", category="other"))
    await hit(cache, ask("a", tenant="u"))
    plan = await cache.flush()
    assert (await cache.flush(confirm=plan.confirm)).entries == 3
    assert cache.stats().entries == 0
    cache._state.check()
    await cache.close()


async def test_what_is_exported_can_be_imported(tmp_path: Path) -> None:
    clock = ManualClock()
    cache = await opened(tmp_path / "one", embedder=embedder(), clock=clock)
    await put(cache, ask("a", tags={"doc": ""}), {"x": "é\ud800"}, seconds=1.5, output_tokens=4)
    await put(cache, ask("d", tenant="u"), "D")
    lines = [line async for line in cache.export()]
    assert len(lines) == 2
    assert len([line async for line in cache.export("u")]) == 1
    await cache.close()
    cache = await opened(tmp_path / "two", embedder=embedder(), clock=clock)
    assert await cache.import_(lines, author="mover") == 2
    assert await cache.import_(lines, author="mover") == 0
    found = await hit(cache, ask("b"))
    assert (found.value, found.saved_s, found.saved_tokens) == ({"x": "é\ud800"}, 1.5, 4)
    await miss(cache, ask("d"))
    await hit(cache, ask("d", tenant="u"))
    assert await cache.bump("doc") == 1
    assert await cache.import_(lines, author="mover") == 0, "it stands under a bump"
    await cache.close()


async def test_others_have_their_turns_while_entries_are_moved_and_deleted(tmp_path: Path) -> None:
    cache = await opened(tmp_path)
    await put(cache, ask("a"), "A")
    (line,) = [line async for line in cache.export()]
    row = json.loads(line)
    lines = [json.dumps(row | {"exact": f"{number:032x}"}) for number in range(400)]
    turns, moving = 0, True

    async def others() -> None:
        nonlocal turns
        while moving:
            await asyncio.sleep(0)
            turns += 1

    async def turns_of(work: Coroutine[Any, Any, object]) -> int:
        before = turns
        await work
        return turns - before

    watching = asyncio.create_task(others())
    assert await turns_of(cache.import_(lines, author="mover")) > 40
    assert len([line async for line in cache.export()]) == 401
    assert await turns_of(cache.flush(confirm="flush all tenants all categories")) > 10
    moving = False
    await watching
    assert cache.stats().entries == 0
    await cache.close()


async def test_a_promoted_question_is_exported_with_its_answer(tmp_path: Path) -> None:
    from tests.semantic_cache.doubles import ToldJudge

    cache = await opened(
        tmp_path / "one", embedder=ChosenEmbedder(a=at(1.0), c=at(0.87)), judge=ToldJudge(lambda c: True)
    )
    await put(cache, ask("a"), "A")
    await miss(cache, ask("c"))
    await cache.settle()
    lines = [line async for line in cache.export()]
    await cache.close()
    cache = await opened(tmp_path / "two")
    assert await cache.import_(lines, author="x") == 2
    assert (await hit(cache, ask("c"))).value == "A"
    await cache.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"partition": "xyz"}, "partition"),
        ({"body": "%%%"}, "line 2"),
        ({"body": "bm90IGpzb24="}, "line 2"),
        ({"vector": "AAAA"}, "vector"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": "1"}, "seconds"),
        ({"extra": 1}, "extra"),
        (None, "line 2"),
    ],
)
async def test_a_bad_line_is_located_and_nothing_comes(
    tmp_path: Path, change: dict[str, object] | None, message: str
) -> None:
    cache = await opened(tmp_path / "one", embedder=embedder())
    await put(cache, ask("a"))
    (line,) = [line async for line in cache.export()]
    await cache.close()
    bad = "{broken" if change is None else json.dumps(json.loads(line) | change)
    cache = await opened(tmp_path / "two", embedder=embedder())
    with pytest.raises(TransferError, match=message) as caught:
        await cache.import_([line, bad], author="x")
    assert caught.value.line == 2
    assert cache.stats().entries == 0
    await cache.close()


async def test_the_expired_are_not_imported_and_private_entries_become_the_importers(tmp_path: Path) -> None:
    own = Category("own", similarity=0.9, ttl_s=60, quota=0.1, error_target=0.05, sharing=Sharing.PRINCIPAL)
    clock = ManualClock()
    cache = await opened(tmp_path / "one", clock=clock, categories=policies(own))
    await put(cache, ask("a"))
    await put(cache, ask("x", category=None, principal="ann"))
    lines = [line async for line in cache.export()]
    await cache.close()
    cache = await opened(tmp_path / "two", clock=clock, categories=policies(own))
    assert await cache.import_(lines, author="ann") == 2
    await hit(cache, ask("x", category=None, principal="ann"))
    await miss(cache, ask("x", category=None, principal="bob"))
    await cache.close()
    clock.advance(5000)
    cache = await opened(tmp_path / "three", clock=clock, categories=policies(own))
    assert await cache.import_(lines, author="ann") == 0
    await cache.close()


async def test_labelled_pairs_move_the_threshold_and_stay_learned(tmp_path: Path) -> None:
    chosen = ChosenEmbedder(**{f"q{i}": at(1.0 - 0.3 * i / 200) for i in range(200)})
    pairs = [json.dumps({"category": "plain", "a": "q0", "b": f"q{i}", "same": True}) for i in range(1, 200)]
    cache = await opened(tmp_path, embedder=chosen)
    assert await cache.learn_pairs([*pairs, ""]) == 199
    row = next(c for c in cache.stats().categories if c.category == "plain")
    assert row.threshold < 0.85
    assert not row.from_defaults
    await cache.close()
    cache = await opened(tmp_path, embedder=chosen)
    assert next(c for c in cache.stats().categories if c.category == "plain").threshold == pytest.approx(
        row.threshold, abs=0.03
    )
    await cache.close()


async def test_labels_that_are_never_read_again_are_forgotten_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = (
        "INSERT INTO labels (at, category, entry, similarity, correct, source, digest) VALUES (0, ?, 0, .9, 1, ?, ?)"
    )
    cache = await opened(tmp_path, embedder=embedder())
    made = [(label, ("plain", str(n), digest)) for n in range(5) for digest in ("chosen", "another")]
    await cache._store.write(made)
    await cache.close()
    monkeypatch.setattr(admin, "_LABELS_AT_START", 3)
    cache = await opened(tmp_path, embedder=embedder())
    kept = await cache._store.query("SELECT digest, group_concat(source, '') FROM labels GROUP BY digest")
    assert dict(kept) == {"chosen": "234", "another": "234"}
    await cache.close()


async def test_bad_pairs_are_located(tmp_path: Path) -> None:
    cache = await opened(tmp_path, embedder=embedder())
    good = '{"category": "plain", "a": "a", "b": "b", "same": true}'
    for bad in (
        "{",
        '{"category": "nope", "a": "a", "b": "b", "same": true}',
        '{"category": "plain", "a": "", "b": "b", "same": 1}',
    ):
        with pytest.raises(TransferError) as caught:
            await cache.learn_pairs([good, bad])
        assert caught.value.line == 2
    assert next(c for c in cache.stats().categories if c.category == "plain").labels == 0
    await cache.close()
    cache = await opened(tmp_path / "exact")
    with pytest.raises(InvalidRequest, match="embedder"):
        await cache.learn_pairs([good])
    await cache.close()
