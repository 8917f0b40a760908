"""Routes of programs, each on its good way and on its bad ones, over the real runtime in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.config import Settings
from orchestrator.limits import Limits
from tests.orchestrator.api.support import Client, one_call, serving, virtually

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def now() -> float:
    return asyncio.get_running_loop().time()


async def submitted(client: Client, program: dict[str, Any] | None = None) -> str:
    answer = await client.post("/v1/programs", program or one_call())
    assert answer.status == 201, answer.body
    return str(answer.json["id"])


@virtually
async def test_a_program_is_accepted_runs_and_is_read_back() -> None:
    async with serving() as server:
        answer = await server.client.post("/v1/programs", one_call(), traceparent=TRACEPARENT)
        assert answer.status == 201
        program = answer.json["id"]
        assert answer.headers["location"] == f"/v1/programs/{program}"
        assert (answer.json["status"], answer.json["tenant"], answer.json["calls"]) == ("running", "default", 1)
        assert answer.json["trace_id"] == TRACEPARENT.split("-")[1]
        waited = await server.client.get(f"/v1/programs/{program}/variables/answer", wait=30)
        assert (waited.status, waited.json["status"], waited.json["value"]) == (200, "written", "hello world")
        assert now() == 2.0
        view = await server.client.get(f"/v1/programs/{program}")
        assert view.status == 200
        assert view.json["status"] == "succeeded"
        assert view.json["outputs"]["answer"]["value"] == "hello world"
        assert [call["state"] for call in view.json["call_views"]] == ["ended"]
        timeline = await server.client.get(f"/v1/programs/{program}/timeline")
        assert timeline.json["critical_path"] == ["answer"]
        assert timeline.json["calls"][0]["output_tokens"] == 2


@virtually
async def test_a_malformed_trace_context_is_ignored() -> None:
    async with serving() as server:
        answer = await server.client.post("/v1/programs", one_call(), traceparent="00-nonsense")
        assert answer.status == 201
        assert len(answer.json["trace_id"]) == 32


@virtually
async def test_waiting_for_a_variable_ends_in_time_whatever_happens() -> None:
    async with serving() as server:
        program = await submitted(server.client)
        path = f"/v1/programs/{program}/variables/answer"
        assert (await server.client.get(path)).json["status"] == "empty"
        assert now() == 0.0
        early = await server.client.get(path, wait=0.5)
        assert (early.status, early.json["status"], now()) == (200, "empty", 0.5)
        waits = [server.client.get(path, wait=30) for _ in range(50)]
        assert {answer.json["value"] for answer in await asyncio.gather(*waits)} == {"hello world"}
        assert now() == 2.0
        assert len(server.app.state.parts.streams) == 0


@virtually
async def test_a_client_that_leaves_a_wait_leaves_nothing_behind() -> None:
    async with serving() as server:
        program = await submitted(server.client, {"workflow": "w", "open": True, "graph": one_call()["graph"]})
        before = len(asyncio.all_tasks())
        path = f"/v1/programs/{program}/variables/answer"
        async with server.client.stream(path, {"wait": 100}):
            await asyncio.sleep(0.5)
            assert len(server.app.state.parts.streams) == 1
        assert now() == 0.5
        assert len(server.app.state.parts.streams) == 0
        assert len(asyncio.all_tasks()) <= before


@virtually
async def test_a_failed_variable_answers_its_waiters_at_once() -> None:
    async with serving() as server:
        program = await submitted(server.client, one_call(timeout_s=0.5))
        waited = await server.client.get(f"/v1/programs/{program}/variables/answer", wait=30)
        assert (waited.json["status"], waited.json["error"]["type"]) == ("failed", "timeout")
        assert now() == 0.5
        view = await server.client.get(f"/v1/programs/{program}")
        assert (view.json["status"], view.json["error"]["call"]) == ("failed", "answer")


@virtually
async def test_the_same_key_and_body_make_one_program() -> None:
    async with serving() as server:
        first = await server.client.post("/v1/programs", one_call(), idempotency_key="k-1")
        again = await server.client.post("/v1/programs", one_call(), idempotency_key='"k-1"')
        assert (first.status, again.status) == (201, 200)
        assert again.json["id"] == first.json["id"]
        assert again.headers["location"] == first.headers["location"]
        other = await server.client.post("/v1/programs", one_call("something else"), idempotency_key="k-1")
        assert (other.status, other.problem["type"]) == (422, "urn:tenuto:problem:idempotency_mismatch")
        assert (await server.client.post("/v1/programs", one_call(), idempotency_key="k-2")).status == 201
        listed = await server.client.get("/v1/programs")
        assert len(listed.json["data"]) == 2


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, '""'])
@virtually
async def test_a_bad_idempotency_key_is_refused(key: str) -> None:
    async with serving() as server:
        answer = await server.client.post("/v1/programs", one_call(), idempotency_key=key)
        assert (answer.status, answer.pointers()) == (422, ["/header/Idempotency-Key"])


@virtually
async def test_an_open_program_grows_and_ends_when_it_is_sealed() -> None:
    async with serving() as server:
        program = await submitted(server.client, {"workflow": "agent", "open": True})
        grown = await server.client.post(f"/v1/programs/{program}/extend", one_call()["graph"])
        assert (grown.status, grown.json["calls"]) == (200, 1)
        twice = await server.client.post(f"/v1/programs/{program}/extend", one_call()["graph"])
        assert twice.status == 422
        assert twice.pointers()[0] == "/calls/0/id"
        end = {"seal": True, "result": {"steps": [1, None]}}
        assert (await server.client.post(f"/v1/programs/{program}/extend", end)).status == 200
        await server.client.get(f"/v1/programs/{program}/variables/answer", wait=30)
        view = (await server.client.get(f"/v1/programs/{program}")).json
        assert (view["status"], view["result"], view["open"]) == ("succeeded", {"steps": [1, None]}, False)
        late = await server.client.post(f"/v1/programs/{program}/extend", one_call()["graph"])
        assert (late.status, late.problem["type"]) == (409, "urn:tenuto:problem:program_ended")


@virtually
async def test_lists_are_paged_ordered_and_filtered() -> None:
    async with serving() as server:
        client = server.client
        ids = [await submitted(client, {**one_call(), "workflow": f"w{i % 2}"}) for i in range(5)]
        first = (await client.get("/v1/programs", limit=2)).json
        assert [item["id"] for item in first["data"]] == [ids[4], ids[3]]
        assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[4], ids[3], True)
        rest = (await client.get("/v1/programs", limit=10, after=first["last_id"])).json
        assert [item["id"] for item in rest["data"]] == [ids[2], ids[1], ids[0]]
        assert rest["has_more"] is False
        oldest = (await client.get("/v1/programs", limit=1, order="asc")).json
        assert [item["id"] for item in oldest["data"]] == [ids[0]]
        odd = (await client.get("/v1/programs", workflow="w1")).json
        assert [item["id"] for item in odd["data"]] == [ids[3], ids[1]]
        assert (await client.get("/v1/programs", status="succeeded")).json["data"] == []
        await client.get(f"/v1/programs/{ids[4]}/variables/answer", wait=30)
        assert len((await client.get("/v1/programs", status="succeeded")).json["data"]) == 5
        empty = (await client.get("/v1/programs", workflow="none")).json
        assert empty == {"data": [], "first_id": None, "last_id": None, "has_more": False}


@virtually
async def test_a_page_is_never_longer_than_the_limit() -> None:
    async with serving(settings=Settings(limits=Limits(page=2))) as server:
        for _ in range(3):
            await submitted(server.client)
        assert len((await server.client.get("/v1/programs", limit=1000)).json["data"]) == 2


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"limit": 0}, "/query/limit"),
        ({"limit": "many"}, "/query/limit"),
        ({"order": "up"}, "/query/order"),
        ({"status": "done"}, "/query/status"),
        ({"after": "x" * 300}, "/query/after"),
    ],
)
@virtually
async def test_bad_list_parameters_are_located(query: dict[str, Any], pointer: str) -> None:
    async with serving() as server:
        answer = await server.client.get("/v1/programs", **query)
        assert (answer.status, answer.pointers()) == (422, [pointer])
        assert answer.problem["errors"][0]["fix"]


@virtually
async def test_cancelling_stops_the_engine_and_tells_the_readers() -> None:
    async with serving() as server:
        program = await submitted(server.client)
        await asyncio.sleep(0.5)
        assert len(server.engine.running) == 1
        async with server.client.stream(f"/v1/programs/{program}/events") as stream:
            answer = await server.client.post(f"/v1/programs/{program}/cancel")
            assert (answer.status, answer.json["status"]) == (200, "cancelled")
            kinds = [event.event async for event in stream]
        assert kinds[-1] == "program.cancelled"
        assert server.engine.running == set()
        assert now() == 0.5
        again = await server.client.post(f"/v1/programs/{program}/cancel")
        assert (again.status, again.json["status"]) == (200, "cancelled")


@virtually
async def test_events_replay_go_on_live_and_end() -> None:
    async with serving() as server:
        program = await submitted(server.client, one_call("a b c"))
        await asyncio.sleep(1.5)
        async with server.client.stream(f"/v1/programs/{program}/events") as stream:
            assert await stream.status == 200
            events = [event async for event in stream]
        assert [int(event.id or 0) for event in events] == list(range(1, len(events) + 1))
        assert all(event.data["seq"] == int(event.id or 0) and event.data["kind"] == event.event for event in events)
        assert events[0].event == "program.accepted"
        assert events[-1].event == "program.succeeded"
        tokens = [(event.data["text"], event.at_s) for event in events if event.event == "call.tokens"]
        assert tokens == [("a", 1.5), (" b", 2.0), (" c", 3.0)]
        written = next(event.data for event in events if event.event == "variable.written")
        assert (written["variable"], written["value"]) == ("answer", "a b c")


async def read(client: Client, path: str, count: int, query: dict[str, str] | None = None, **headers: str) -> list[Any]:
    """The next `count` events; then the reader leaves."""
    found: list[Any] = []
    async with client.stream(path, query, **headers) as stream:
        async for event in stream:
            found.append((event.id, event.event, event.data))
            if len(found) == count:
                break
    return found


@virtually
async def test_a_reader_that_comes_back_gets_exactly_the_rest() -> None:
    async with serving() as server:
        client, graph = server.client, one_call("a b c")["graph"]
        program = await submitted(client, {"workflow": "agent", "open": True, "graph": graph})
        path = f"/v1/programs/{program}/events"
        await client.get(f"/v1/programs/{program}/variables/answer", wait=10)
        everything = await read(client, path, 8)
        assert [kind for _, kind, _ in everything].count("call.tokens") == 3
        for seen in range(8):
            expected = everything[seen:]
            assert await read(client, path, 8 - seen, last_event_id=str(seen)) == expected
            assert await read(client, path, 8 - seen, {"after": str(seen)}) == expected
            assert await read(client, path, 8 - seen, {"after": "0"}, last_event_id=str(seen)) == expected
        await client.post(f"/v1/programs/{program}/extend", {"seal": True})
        async with client.stream(path, last_event_id="8") as stream:
            rest = [event.event async for event in stream]
        assert rest == ["program.extended", "program.sealed", "program.succeeded"]
        async with client.stream(path, last_event_id="11") as stream:
            assert [event async for event in stream] == []


@virtually
async def test_a_reader_cut_off_at_any_event_misses_and_doubles_nothing() -> None:
    async with serving() as server:
        path = f"/v1/programs/{await submitted(server.client, one_call('a b c d e'))}/events"
        seen: list[int] = []
        ended = False
        while not ended:
            async with server.client.stream(path, last_event_id=str(seen[-1] if seen else 0)) as stream:
                async for event in stream:
                    seen.append(int(event.id or 0))
                    ended = event.event == "program.succeeded"
                    break
        assert seen == list(range(1, len(seen) + 1))


@virtually
async def test_a_quiet_stream_beats_and_a_reader_that_leaves_is_forgotten() -> None:
    async with serving() as server:
        program = await submitted(server.client, {"workflow": "agent", "open": True})
        async with server.client.stream(f"/v1/programs/{program}/events", {"after": 1}) as stream:
            reading = asyncio.create_task(_drain(stream))
            await asyncio.sleep(46.0)
            assert stream.heartbeats == 3
            assert len(server.app.state.parts.streams) == 1
            reading.cancel()
        assert now() == 46.0
        assert len(server.app.state.parts.streams) == 0


async def _drain(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("last", ["-1", "x", "1.5", "9" * 40, "²"])
@virtually
async def test_a_bad_last_event_id_is_refused(last: str) -> None:
    async with serving() as server:
        program = await submitted(server.client)
        path = f"/v1/programs/{program}/events"
        answer = await server.client.request("GET", path, headers={"last-event-id": last})
        assert (answer.status, answer.pointers()) == (422, ["/header/Last-Event-ID"])
        assert (await server.client.get(path, after="-1")).pointers() == ["/query/after"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/programs/nope"),
        ("GET", "/v1/programs/nope/timeline"),
        ("GET", "/v1/programs/nope/variables/x"),
        ("GET", "/v1/programs/nope/variables/x?wait=10"),
        ("GET", "/v1/programs/nope/events"),
        ("POST", "/v1/programs/nope/cancel"),
        ("POST", "/v1/programs/nope/extend"),
    ],
)
@virtually
async def test_an_unknown_program_is_404_everywhere(method: str, path: str) -> None:
    async with serving() as server:
        answer = await server.client.request(method, path.partition("?")[0], {} if method == "POST" else None)
        assert answer.status == 404
        assert "nope" in answer.problem["detail"]


@virtually
async def test_an_unknown_variable_is_404_and_names_it() -> None:
    async with serving() as server:
        program = await submitted(server.client)
        answer = await server.client.get(f"/v1/programs/{program}/variables/answr", wait=10)
        assert (answer.status, now()) == (404, 0.0)
        assert "answr" in answer.problem["detail"]


@virtually
async def test_a_server_that_stops_ends_streams_and_waits() -> None:
    async with serving() as server:
        program = await submitted(server.client, {"workflow": "agent", "open": True, "graph": one_call()["graph"]})
        waiting = asyncio.create_task(server.client.get(f"/v1/programs/{program}/variables/answer", wait=100))
        async with server.client.stream(f"/v1/programs/{program}/events") as stream:
            await asyncio.sleep(0.5)
            server.app.state.parts.streams.stop()
            kinds = [event.event async for event in stream]
        assert "program.succeeded" not in kinds
        assert (await waiting).json["status"] == "empty"
        assert now() == 0.5


@virtually
async def test_a_full_server_says_when_to_come_back() -> None:
    async with serving(settings=Settings(limits=Limits(live_programs=1, retry_after_s=2.5))) as server:
        await submitted(server.client)
        answer = await server.client.post("/v1/programs", one_call())
        assert (answer.status, answer.headers["retry-after"], answer.problem["retryable"]) == (429, "3", True)
        assert "live_programs" in answer.problem["detail"]
