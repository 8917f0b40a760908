"""OpenAI's own client gets from `/v1/chat/completions` what it would get from OpenAI."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionToolParam

from engine.protocol import Capabilities, FinishReason, GrammarKind
from tests.orchestrator.api.openai.support import Stock, stock
from tests.orchestrator.api.support import virtually

USER: list[Any] = [{"role": "user", "content": "How many people live in Paris?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "population",
        "description": "People who live in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "population", "arguments": {"city": "Paris"}}\n</tool_call>'


async def programs(server: Stock) -> list[dict[str, Any]]:
    listed = (await server.client.get("/v1/programs", order="asc")).json["data"]
    return [(await server.client.get(f"/v1/programs/{one['id']}")).json for one in listed]


@virtually
async def test_an_answer() -> None:
    async with stock(["two million"]) as server:
        raw = await server.openai.chat.completions.with_raw_response.create(
            model="echo",
            messages=[{"role": "developer", "content": "Be short."}, *USER],
            temperature=0.5,
            top_p=0.9,
            seed=11,
            stop="\n",
            presence_penalty=1,
            frequency_penalty=0.5,
            max_completion_tokens=9,
            logit_bias={"5": -100},
            user="ann",
            extra_body={"top_k": 40, "min_p": 0.1},
        )
        answer = raw.parse()
        assert answer.choices[0].message.content == "two million"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None and answer.usage.total_tokens == 9
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 3
        (asked,) = server.engine.asked
        assert [(m.role, m.content) for m in asked.messages] == [
            ("system", "Be short."),
            ("user", "How many people live in Paris?"),
        ]
        sampling = asked.sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 40, 0.1)
        assert (sampling.seed, sampling.stop, sampling.max_tokens) == (11, ("\n",), 9)
        assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.logit_bias) == (1, 0.5, ((5, -100),))
        (program,) = await programs(server)
        assert raw.headers["x-program-id"] == program["id"]
        assert (program["workflow"], program["status"], program["metadata"]) == ("chat", "succeeded", {"user": "ann"})


@virtually
async def test_an_answer_that_is_cut_off_says_so() -> None:
    async with stock(["one two three"]) as server:
        answer = await server.openai.chat.completions.create(model="echo", messages=USER, max_tokens=2)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two", "length")


@virtually
async def test_a_streamed_answer_comes_in_pieces() -> None:
    async with stock(["two million people"], word_s=1.0) as server:
        stream = await server.openai.chat.completions.create(
            model="echo", messages=USER, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert texts == ["two", " million", " people", None]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 3
        assert len({chunk.id for chunk in chunks}) == 1


@virtually
async def test_choices_are_siblings_with_seeds_of_their_own() -> None:
    async with stock(lambda request: f"seed {request.sampling.seed}") as server:
        answer = await server.openai.chat.completions.create(model="echo", messages=USER, n=3, seed=5)
        assert sorted(c.message.content or "" for c in answer.choices) == ["seed 5", "seed 6", "seed 7"]
        assert [c.index for c in answer.choices] == [0, 1, 2]
        stream = await server.openai.chat.completions.create(model="echo", messages=USER, n=2, stream=True)
        ends = [c.choices[0].index async for c in stream if c.choices[0].finish_reason is not None]
        assert sorted(ends) == [0, 1]


@virtually
async def test_log_probabilities() -> None:
    async with stock(["two million"]) as server:
        asked: Any = {"model": "echo", "messages": USER, "logprobs": True, "top_logprobs": 2}
        answer = await server.openai.chat.completions.create(**asked)
        told = answer.choices[0].logprobs
        assert told is not None and told.content is not None
        assert [token.token for token in told.content] == ["two", " million"]
        assert [top.logprob for top in told.content[0].top_logprobs] == [-1.0, -2.0]
        assert told.content[0].bytes == list(b"two")
        stream = await server.openai.chat.completions.create(**asked, stream=True)
        streamed = [
            token.token
            async for chunk in stream
            if chunk.choices[0].logprobs is not None
            for token in chunk.choices[0].logprobs.content or ()
        ]
        assert streamed == ["two", " million"]


@virtually
async def test_an_answer_of_a_schema_stays_text_even_if_it_is_cut_off() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    async with stock(['{"n": 1 }', '{"n": 1 }', "{}"]) as server:
        answer = await server.openai.chat.completions.create(model="echo", messages=USER, response_format=form)
        assert answer.choices[0].message.content == '{"n": 1 }'
        grammar = server.engine.asked[0].grammar
        assert grammar is not None and grammar.kind is GrammarKind.JSON_SCHEMA
        assert json.loads(grammar.source) == schema
        cut = await server.openai.chat.completions.create(
            model="echo", messages=USER, response_format=form, max_tokens=1
        )
        assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ('{"n":', "length")
        await server.openai.chat.completions.create(
            model="echo", messages=USER, response_format={"type": "json_object"}
        )
        grammar = server.engine.asked[-1].grammar
        assert grammar is not None and json.loads(grammar.source) == {"type": "object"}


@pytest.mark.parametrize("streamed", [False, True])
@virtually
async def test_a_session_with_tools_is_one_program_and_its_pause_is_a_function_call(streamed: bool) -> None:
    async with stock(["I look. " + CALL, "two million"]) as server:
        turn = await said(server, USER, streamed)
        assert (turn["content"], turn["finish"]) == ("I look.", "tool_calls")
        (call,) = turn["calls"]
        assert call["function"] == {"name": "population", "arguments": '{"city": "Paris"}'}
        (program,) = await programs(server)
        assert (program["status"], program["open"]) == ("running", True)
        assert [(c["id"], c["kind"], c["state"]) for c in program["call_views"]] == [
            ("turn0", "llm", "ended"),
            ("turn0-0", "function", "running"),
        ]
        await asyncio.sleep(5)
        asks = {"role": "assistant", "content": "I look.", "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": call["id"], "content": "2102650"}
        turn = await said(server, [*USER, asks, result], streamed)
        assert (turn["content"], turn["finish"]) == ("two million", "stop")
        (program,) = await programs(server)
        assert (program["status"], [c["id"] for c in program["call_views"]]) == (
            "succeeded",
            ["turn0", "turn0-0", "turn2"],
        )
        timeline = (await server.client.get(f"/v1/programs/{program['id']}/timeline")).json
        assert timeline["calls"][1]["spans"] == [{"cause": "tool", "start_s": 0.0, "end_s": 5.0}]
        assert timeline["calls"][2]["after"] == ["turn0-0"]
        assert timeline["causes"]["tool"] == 5.0
        second = server.engine.asked[1]
        assert [m.role for m in second.messages] == ["user", "assistant", "tool"]
        assert json.loads(second.messages[1].tool_calls[0])["function"]["arguments"] == {"city": "Paris"}
        assert second.messages[2].tool_call_id == call["id"]
        assert json.loads(second.tools[0])["function"]["name"] == "population"


async def said(server: Stock, messages: list[Any], streamed: bool, **options: Any) -> dict[str, Any]:
    """One turn with a tool, streamed or not, in one form."""
    asked: Any = {"model": "echo", "messages": messages, "tools": [WEATHER], **options}
    if not streamed:
        choice = (await server.openai.chat.completions.create(**asked)).choices[0]
        calls = [call.model_dump(exclude_none=True) for call in choice.message.tool_calls or ()]
        return {"content": (choice.message.content or "").strip(), "calls": calls, "finish": choice.finish_reason}
    content, calls, finish = "", [], None
    async for chunk in await server.openai.chat.completions.create(**asked, stream=True):
        delta = chunk.choices[0].delta
        content += delta.content or ""
        calls += [call.model_dump(exclude_none=True, exclude={"index"}) for call in delta.tool_calls or ()]
        finish = chunk.choices[0].finish_reason
    return {"content": content.strip(), "calls": calls, "finish": finish}


@virtually
async def test_an_unused_session_ends_by_itself_and_late_results_begin_a_program_of_their_own() -> None:
    async with stock([CALL, "two million"]) as server:
        turn = await said(server, USER, False)
        await asyncio.sleep(2000)  # limits.session_idle_s for the tool, and once more for the client
        (program,) = await programs(server)
        assert program["status"] == "succeeded"
        assert program["call_views"][1]["error"]["type"] == "timeout"
        asks = {"role": "assistant", "content": "", "tool_calls": turn["calls"]}
        result = {"role": "tool", "tool_call_id": turn["calls"][0]["id"], "content": "2"}
        assert (await said(server, [*USER, asks, result], False))["content"] == "two million"
        assert [one["status"] for one in await programs(server)] == ["succeeded", "succeeded"]


@virtually
async def test_a_client_may_name_its_program() -> None:
    async with stock(["yes"]) as server:
        named: Any = {"model": "echo", "messages": USER}
        first = await server.openai.chat.completions.with_raw_response.create(
            **named, extra_headers={"x-program-id": "s-1"}
        )
        both = await asyncio.gather(
            server.openai.chat.completions.with_raw_response.create(**named, metadata={"program": "s-1"}),
            server.openai.chat.completions.with_raw_response.create(**named, extra_body={"tenuto": {"program": "s-1"}}),
        )
        other = await server.openai.chat.completions.with_raw_response.create(
            **named, extra_headers={"x-session-id": "s-2"}
        )
        ids = [raw.headers["x-program-id"] for raw in (first, *both, other)]
        assert len({*ids[:3]}) == 1 and ids[3] != ids[0]
        last = await server.openai.chat.completions.with_raw_response.create(
            **named, extra_headers={"x-program-id": "s-1", "x-program-final": "true"}
        )
        assert last.headers["x-program-id"] == ids[0]
        known = {one["id"]: one for one in await programs(server)}
        assert (known[ids[0]]["status"], known[ids[0]]["calls"]) == ("succeeded", 4)
        assert known[ids[3]]["status"] == "running"
        again = await server.openai.chat.completions.with_raw_response.create(
            **named, extra_headers={"x-program-id": "s-1"}
        )
        assert again.headers["x-program-id"] not in ids  # the name's program had ended: this is the next one


@virtually
async def test_a_call_that_must_come_is_held_to_its_form_and_ends_with_it() -> None:
    async with stock(['{"name": "population", "arguments": {"city": "Paris"}}']) as server:
        server.engine.finish = FinishReason.TOOL_CALL
        turn = await said(server, USER, False, tool_choice={"type": "function", "function": {"name": "population"}})
        assert (turn["content"], turn["finish"], len(turn["calls"])) == ("", "tool_calls", 1)
        grammar = server.engine.asked[0].grammar
        assert grammar is not None and grammar.tool_call
        properties = json.loads(grammar.source)["properties"]
        assert properties["name"] == {"const": "population"} and properties["arguments"]["required"] == ["city"]
        turn = await said(server, USER, False, tool_choice="none")
        assert (turn["finish"], turn["calls"], server.engine.asked[1].tools) == ("stop", [], ())


@pytest.mark.parametrize("streamed", [False, True])
@virtually
async def test_several_calls_unless_one_is_asked_for(streamed: bool) -> None:
    async with stock([CALL + "\n" + CALL.replace("Paris", "Rome")]) as server:
        turn = await said(server, USER, streamed)
        assert [json.loads(c["function"]["arguments"])["city"] for c in turn["calls"]] == ["Paris", "Rome"]
        assert len({c["id"] for c in turn["calls"]}) == 2
        turn = await said(server, USER, streamed, parallel_tool_calls=False)
        assert [json.loads(c["function"]["arguments"])["city"] for c in turn["calls"]] == ["Paris"]


REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
    ({"n": 0}, "n", "invalid_request"),
    ({"temperature": 3}, "temperature", "invalid_request"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type", ""),
    ({"messages": []}, "messages", "invalid_request"),
    ({"tool_choice": "required"}, None, "invalid_request"),
    ({"store": True}, "store", "invalid_request"),
    ({"stop": ""}, "stop", "invalid_request"),
    ({"stop": ["x", ""]}, "stop[1]", "invalid_request"),
    ({"logit_bias": {"x": 1}}, "logit_bias.x", "invalid_request"),
]


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED)
@virtually
async def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str | None, code: str) -> None:
    async with stock(["yes"]) as server:
        with pytest.raises(openai.BadRequestError) as caught:
            await server.openai.chat.completions.create(
                model="echo",
                messages=USER,
                extra_body=fields,
            )
        assert caught.value.param == param
        assert not code or caught.value.code == code
        assert caught.value.type == "invalid_request_error"
        assert await programs(server) == []


@virtually
async def test_errors_have_openais_shape() -> None:
    async with stock(["yes"]) as server:
        create = server.openai.chat.completions.create
        with pytest.raises(openai.NotFoundError) as missing:
            await create(model="gpt-9", messages=USER)
        assert missing.value.code == "model_not_found" and missing.value.param == "model"
        server.engine.say = lambda _: _raise_too_long()
        for streamed in (False, True):
            with pytest.raises(openai.BadRequestError) as long:
                await create(model="echo", messages=USER, stream=streamed)
            assert long.value.code == "context_length_exceeded"
            server.engine.say = lambda _: _raise_unknown_token()
            with pytest.raises(openai.BadRequestError) as unknown:
                await create(model="echo", messages=USER, stream=streamed, logit_bias={"99": 1})
            assert (unknown.value.code, unknown.value.param) == ("invalid_request", "logit_bias")
            server.engine.say = lambda _: _raise_too_long()
        answer = await server.client.get("/v1/chat/completions")
        assert answer.status == 405 and answer.json["error"]["code"] == "method_not_allowed"
        assert (await programs(server))[-1]["status"] == "failed"


def _raise_unknown_token() -> str:
    from engine.protocol import InvalidRequest

    raise InvalidRequest("logit_bias id 99 is outside the vocabulary of 9")


def _raise_too_long() -> str:
    from engine.protocol import PromptTooLong

    raise PromptTooLong("the prompt has 9 tokens, the context is 8")


@virtually
async def test_a_client_that_leaves_stops_the_generation() -> None:
    async with stock(["a b c d e f g h"], word_s=1.0) as server:
        body = {"model": "echo", "messages": USER}
        for options in (
            {},
            {"stream": True},
            {"tenuto": {"program": "s"}},
            {"tenuto": {"program": "s"}, "stream": True},
        ):
            async with server.client.posting("/v1/chat/completions", {**body, **options}):
                await asyncio.sleep(2.5)
                assert len(server.engine.running) == 1
            await asyncio.sleep(0.01)
            assert not server.engine.running
        statuses = [one["status"] for one in await programs(server)]
        assert statuses == ["cancelled", "cancelled", "running"]  # a named program goes on
        assert len(server.app.state.parts.streams) == 0


@virtually
async def test_the_cache_answers_chats_too() -> None:
    from orchestrator.caching.options import CacheOptions
    from orchestrator.config import Settings

    async with stock(["two million"], settings=Settings(semantic_cache=CacheOptions(mode="exact"))) as server:
        asked: Any = {"model": "echo", "messages": USER, "temperature": 0}
        await server.openai.chat.completions.create(**asked)
        raw = await server.openai.chat.completions.with_raw_response.create(**asked)
        assert raw.headers["cache-status"].startswith("tenuto; hit")
        assert raw.parse().choices[0].message.content == "two million"
        stream = await server.openai.chat.completions.create(**asked, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "two million"
        assert len(server.engine.asked) == 1


@virtually
async def test_an_adapter_is_named_in_our_own_part_of_the_body() -> None:
    async with stock(["yes"]) as server:
        await server.openai.chat.completions.create(
            model="echo", messages=USER, extra_body={"tenuto": {"adapter": "legal", "workflow": "counsel"}}
        )
        assert server.engine.asked[0].adapter == "legal"
        assert [one["workflow"] for one in await programs(server)] == ["counsel"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"logprobs": True}, "logprobs_unsupported"),
        ({"response_format": {"type": "json_object"}}, "constraint_unsupported"),
        ({"tools": [WEATHER], "tool_choice": "required"}, "constraint_unsupported"),
    ],
)
@virtually
async def test_what_the_engine_lacks_is_refused_by_name(fields: dict[str, Any], code: str) -> None:
    async with stock(["yes"]) as server:
        server.engine.capabilities = Capabilities()
        with pytest.raises(openai.BadRequestError) as caught:
            await server.openai.chat.completions.create(model="echo", messages=USER, **fields)
        assert caught.value.code == code
        assert server.engine.asked == []
