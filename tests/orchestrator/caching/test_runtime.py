"""Programs with a cache: what a hit looks like, what is never answered, what a write makes stale."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.protocol import EngineError, FinishReason
from orchestrator.caching.server_cache import ServerCache
from orchestrator.journal import SqliteJournal
from tenuto.wire import CacheControl, EffectClass, Event, EventKind, JsonType, LLMCall, ProgramView, Sampling
from tests.orchestrator.caching.conftest import Start
from tests.orchestrator.runtime.support import (
    TENANT,
    Break,
    Say,
    ScriptedEngine,
    Server,
    errors,
    function,
    kinds,
    llm,
    program,
    sequence,
    values,
    var,
)
from tests.semantic_cache.doubles import ChosenEmbedder, at

NEAR = {"how many cats are there?": at(1.0), "how many cats exist?": at(0.97), "how many cats did exist?": at(0.93)}


def cache_of(server: Server) -> ServerCache:
    assert isinstance(server.cache, ServerCache)
    return server.cache


async def ask(server: Server, *calls: Any, principal: str | None = "key", **options: Any) -> ProgramView:
    """Run a program to its end and let the cache keep what it will."""
    id = await server.submit(program(*calls, **options), principal=principal)
    await server.follow(id)
    await cache_of(server).settle()
    return server.view(id)


def question(text: str, **options: Any) -> tuple[LLMCall, dict[str, str]]:
    """A call whose question is marked, and its input."""
    options.setdefault("category", "chat")
    return llm("answer", "Answer: ", var("q"), question="q", **options), {"q": text}


async def asked(server: Server, text: str, **options: Any) -> ProgramView:
    principal = options.pop("principal", "key")
    call, inputs = question(text, **options)
    return await ask(server, call, inputs=inputs, principal=principal)


async def events_of(server: Server, view: ProgramView) -> list[Event]:
    return await server.follow(view.id)


async def test_an_equal_call_is_answered_without_the_engine_and_says_so(start: Start) -> None:
    server = await start(engine=ScriptedEngine(lambda _: Say("four and twenty", seconds=3.0)))
    await asked(server, "how many?")
    again = await asked(server, "how many?")
    assert values(again) == {"answer": "four and twenty"}
    assert len(server.engine.requests) == 1
    (call,) = again.call_views
    assert call.cache is not None
    assert (call.cache.tier, call.cache.category, call.cache.saved_s) == ("exact", "chat", 3.0)
    assert call.cache.saved_tokens > 0 and (call.finish, call.usage) == (None, None)
    timeline = server.runtime.timeline(again.id, tenant=TENANT)
    assert timeline.seconds == 0.0
    assert timeline.calls[0].cache == call.cache


async def test_a_hit_streams_like_a_live_answer(start: Start) -> None:
    server = await start(engine=ScriptedEngine(lambda _: Say("four and twenty")))
    first = await asked(server, "how many?")
    again = await asked(server, "how many?")
    for view in (first, again):
        events = [e for e in await events_of(server, view) if e.call == "answer"]
        assert "".join(e.text or "" for e in events if e.kind is EventKind.CALL_TOKENS) == "four and twenty"
    assert kinds(events)[:2] == [EventKind.CALL_READY, EventKind.CALL_STARTED]
    assert sum(kind is EventKind.CALL_TOKENS for kind in kinds(events)) == 3
    told = [e for e in events if e.cache is not None]
    assert kinds(told) == [EventKind.CALL_STARTED, EventKind.CALL_ENDED]


async def test_a_near_question_is_answered_and_its_similarity_told(start: Start) -> None:
    server = await start(ChosenEmbedder(**NEAR))
    await asked(server, "how many cats are there?")
    again = await asked(server, "how many cats exist?")
    (call,) = again.call_views
    assert call.cache is not None
    assert call.cache.tier == "semantic"
    assert call.cache.similarity == pytest.approx(0.97, abs=1e-3)
    assert len(server.engine.requests) == 1


async def test_a_call_without_a_marked_question_is_never_answered_by_a_near_one(start: Start) -> None:
    server = await start(ChosenEmbedder(**NEAR))
    for text in ("how many cats are there?", "how many cats exist?"):
        await ask(server, llm("answer", "Answer: ", var("q"), category="chat"), inputs={"q": text})
    assert len(server.engine.requests) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"sampling": Sampling(max_tokens=7)},
        {"type": JsonType(json_schema={"type": "string"})},
        {"stage": "other"},
        {"cache": CacheControl(tags={"doc": "2"})},
    ],
)
async def test_what_is_not_the_question_must_match_exactly(start: Start, changed: dict[str, Any]) -> None:
    server = await start(ChosenEmbedder(**NEAR), engine=ScriptedEngine(lambda _: '"x"'))
    await asked(server, "how many cats are there?", stage="a", cache=CacheControl(tags={"doc": "1"}))
    await asked(
        server, "how many cats are there?", **({"stage": "a", "cache": CacheControl(tags={"doc": "1"})} | changed)
    )
    assert len(server.engine.requests) == 2


async def test_equal_calls_that_run_at_once_are_generated_once(start: Start) -> None:
    server = await start(engine=ScriptedEngine(lambda _: Say("one", seconds=5.0)))
    calls = [llm(f"c{i}", "the same", category="chat") for i in range(5)]
    view = await ask(server, *calls)
    assert set(values(view).values()) == {"one"}
    assert len(server.engine.requests) == 1
    assert sorted(c.cache.tier for c in view.call_views if c.cache is not None) == ["flight"] * 4


async def test_a_leader_that_fails_hands_its_place_on(start: Start) -> None:
    script = sequence(Break(EngineError("no"), after_s=2.0), Say("yes", seconds=1.0))
    server = await start(engine=ScriptedEngine(script))
    view = await ask(server, llm("a", "the same", category="chat"), llm("b", "the same", category="chat"))
    assert len(errors(view)) == 1
    assert list(values(view).values()) == ["yes"]


async def test_nobody_waits_for_an_equal_call_longer_than_its_own_timeout(start: Start) -> None:
    answers = sequence(Say("slow", seconds=20.0), Say("quick", seconds=1.0))
    server = await start(engine=ScriptedEngine(answers))
    view = await ask(
        server, llm("a", "the same", category="chat"), llm("b", "the same", category="chat", timeout_s=3.0)
    )
    assert values(view) == {"a": "slow", "b": "quick"}
    assert server.runtime.timeline(view.id, tenant=TENANT).seconds == 20.0


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"sampling": Sampling(temperature=0.9, seed=1)}, Say("hot")),
        ({"cache": CacheControl(mode="off")}, Say("off")),
        ({"cache": CacheControl(keep=False)}, Say("not to be kept")),
        ({}, Say("cut", finish=FinishReason.LENGTH)),
        ({}, Break(EngineError("broken"))),
        ({"type": JsonType(json_schema={"type": "integer"})}, Say('"no integer"')),
    ],
)
async def test_what_may_not_be_kept_is_asked_again(start: Start, options: dict[str, Any], answer: Any) -> None:
    server = await start(engine=ScriptedEngine(lambda _: answer))
    for _ in range(2):
        await asked(server, "how many?", **options)
    assert len(server.engine.requests) == 2


async def test_sampled_siblings_without_a_seed_differ_unless_the_call_asks_for_the_cache(start: Start) -> None:
    server = await start()
    warm = Sampling(temperature=0.2)
    await ask(server, *(llm(f"c{i}", "the same", sampling=warm) for i in range(3)))
    assert len(server.engine.requests) == 3
    await ask(server, *(llm(f"c{i}", "the same", sampling=warm, category="chat") for i in range(3)))
    assert len(server.engine.requests) == 4


async def test_an_answer_that_an_effect_reads_is_never_taken_from_the_cache(start: Start) -> None:
    server = await start()
    server.worker(send=lambda text: text)
    for effect, generated in ((EffectClass.READ, 1), (EffectClass.EXCLUSIVE, 2)):
        server.engine.requests.clear()
        for _ in range(2):
            send = function("send", "send", {"text": var("draft")}, effect=effect)
            await ask(server, llm("draft", f"write {effect}", category="chat"), send)
        assert len(server.engine.requests) == generated, effect


async def test_callers_without_a_name_write_nothing(start: Start) -> None:
    server = await start()
    for _ in range(2):
        await asked(server, "how many?", principal=None)
    assert len(server.engine.requests) == 2


async def test_users_behind_one_key_do_not_read_each_others_personal_answers(start: Start) -> None:
    server = await start()
    call, inputs = question("what is my balance?", category="personal")
    for user in ("ann", "bob", "ann"):
        await ask(server, call, inputs=inputs, metadata={"user": user})
    assert len(server.engine.requests) == 2


async def test_a_write_makes_stale_what_its_key_and_its_bumps_name(start: Start) -> None:
    server = await start()
    server.worker(change=lambda: None, touch=lambda: None)
    control = CacheControl(tags={"table:orders": ""})
    write = function("w", "change", effect=EffectClass.WRITE, effect_key="table:orders")
    touch = function("t", "touch", bumps=("table:orders",))
    other = function("o", "change", effect=EffectClass.WRITE, effect_key="table:users")
    for generated, between in ((1, None), (1, other), (2, write), (3, touch)):
        if between is not None:
            await ask(server, between)
        await asked(server, "how many orders?", cache=control)
        assert len(server.engine.requests) == generated, between


async def test_a_write_that_failed_may_have_written(start: Start) -> None:
    server = await start()

    def fail() -> None:
        raise ValueError

    server.worker(change=fail)
    control = CacheControl(tags={"orders": ""})
    await asked(server, "how many?", cache=control)
    cancelled = await server.submit(
        program(function("w", "change", effect=EffectClass.WRITE, effect_key="orders")), principal="key"
    )
    await server.until(cancelled, EventKind.CALL_STARTED)
    await server.runtime.cancel(cancelled, tenant=TENANT)
    await asked(server, "how many?", cache=control)
    assert len(server.engine.requests) == 2


async def test_a_write_under_way_when_the_server_died_is_taken_as_done(start: Start, tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    server = await start(journal_path=journal)
    server.worker(change=lambda: asyncio.Event().wait())
    control = CacheControl(tags={"orders": ""})
    await asked(server, "how many?", cache=control)
    id = await server.submit(
        program(function("w", "change", effect=EffectClass.WRITE, effect_key="orders")), principal="key"
    )
    await server.until(id, EventKind.CALL_STARTED)
    assert isinstance(server.journal, SqliteJournal)
    await server.journal.abandon()
    await cache_of(server).close()  # what the dying server still did to its cache is lost
    later = await start(journal_path=journal)
    await asked(later, "how many?", cache=control)
    assert len(later.engine.requests) == 1


async def test_hits_survive_a_restart_and_the_programs_history_still_tells_of_them(
    start: Start, tmp_path: Path
) -> None:
    server = await start(journal_path=tmp_path / "journal.db")
    await asked(server, "how many?")
    again = await asked(server, "how many?")
    told = again.call_views[0].cache
    await server.close()
    await cache_of(server).close()
    later = await start(journal_path=tmp_path / "journal.db")
    await later.runtime.recall(again.id, tenant=TENANT)
    assert told is not None
    assert later.view(again.id).call_views[0].cache == told
    await asked(later, "how many?")
    assert later.engine.requests == []


async def test_near_misses_stand_in_the_prompt_when_the_call_asks_for_examples(start: Start) -> None:
    server = await start(ChosenEmbedder(**NEAR), options={"categories": {"chat": {"similarity": 0.99}}})
    await asked(server, "how many cats are there?")
    await asked(server, "how many cats exist?", cache=CacheControl(examples=2))
    roles = [(m.role, m.content) for m in server.engine.requests[-1].messages or ()]
    assert roles == [
        ("user", "Answer: how many cats are there?"),
        ("assistant", "<Answer: how many cats are there?>"),
        ("user", "Answer: how many cats exist?"),
    ]


async def test_a_shadow_call_runs_behind_everything_and_teaches(start: Start) -> None:
    always = {"categories": {"chat": {"shadow_rate": 1.0}}}
    script = sequence(Say("12"), Say("13", seconds=2.0))
    server = await start(ChosenEmbedder(**NEAR), always, engine=ScriptedEngine(script))
    await asked(server, "how many cats are there?")
    again = await asked(server, "how many cats exist?")
    assert values(again) == {"answer": "12"}
    assert server.runtime.timeline(again.id, tenant=TENANT).seconds == 0.0
    await cache_of(server).idle()
    shadow = server.engine.requests[-1]
    assert shadow.key == (1e18,)
    chat = next(c for c in cache_of(server).stats().categories if c.category == "chat")
    assert (chat.judged_hits, chat.false_hits) == (1, 1)


async def test_a_stage_that_is_often_hit_is_expected_to_be_fast(start: Start) -> None:
    server = await start(engine=ScriptedEngine(lambda _: Say("slow", seconds=8.0)))
    for _ in range(4):
        await asked(server, "how many?", stage="count")
    call, _ = question("how many?", stage="count")
    expected = server.runtime._services.statistics.seconds("test", call)
    assert expected == pytest.approx(2.0)


async def test_load_is_what_calls_wait_for_their_first_token(start: Start) -> None:
    server = await start(engine=ScriptedEngine(lambda _: Say("slow", queue_s=60.0)))
    ids = [await server.submit(program(llm("a", f"{i}")), principal="key") for i in range(3)]
    await asyncio.sleep(30.0)
    for i in range(20):
        await asyncio.sleep(1.0)
        await server.submit(program(llm("a", f"late {i}")), principal="key")
    await asyncio.sleep(1.0)
    assert cache_of(server).cache.load > 0.5
    for id in ids:
        await server.follow(id)
