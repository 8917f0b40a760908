"""OpenAI's own client gets from `/v1/responses` what it would get from OpenAI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import FunctionToolParam, Response, ResponseFunctionToolCall

from engine.protocol import GrammarKind
from orchestrator.config import Settings
from tests.orchestrator.api.openai.support import Stock, stock
from tests.orchestrator.api.openai.test_chat import CALL, programs
from tests.orchestrator.api.support import virtually

TOOL: FunctionToolParam = {
    "type": "function",
    "name": "population",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


async def responded(server: Stock, streamed: bool, **asked: Any) -> Response:
    """One response, streamed or not; a stream's events are checked on the way."""
    if not streamed:
        response: Response = await server.openai.responses.create(model="echo", **asked)
        return response
    deltas, seen, last = "", -1, None
    async for event in await server.openai.responses.create(model="echo", stream=True, **asked):
        assert event.sequence_number == seen + 1
        seen, last = event.sequence_number, event
        if event.type == "response.output_text.delta":
            deltas += event.delta
    assert last is not None and last.type in ("response.completed", "response.incomplete")
    assert last.response.output_text == deltas
    return last.response


@pytest.mark.parametrize("streamed", [False, True])
@virtually
async def test_an_answer(streamed: bool) -> None:
    async with stock(["two million people"]) as server:
        response = await responded(
            server,
            streamed,
            instructions="Be short.",
            input="How many people live in Paris?",
            max_output_tokens=2,
            temperature=0.5,
            metadata={"a": "b"},
            include=["message.output_text.logprobs"],
            top_logprobs=1,
        )
        assert (response.status, response.output_text) == ("incomplete", "two million")
        assert response.incomplete_details is not None and response.incomplete_details.reason == "max_output_tokens"
        assert response.usage is not None and response.usage.input_tokens_details.cached_tokens == 3
        content: Any = response.output[0].content  # type: ignore[union-attr]
        assert [token.token for token in content[0].logprobs] == ["two", " million"]
        (asked,) = server.engine.asked
        assert [(m.role, m.content) for m in asked.messages] == [
            ("system", "Be short."),
            ("user", "How many people live in Paris?"),
        ]
        assert (asked.sampling.temperature, asked.sampling.max_tokens) == (0.5, 2)
        (program,) = await programs(server)
        assert (program["status"], program["metadata"]) == ("succeeded", {"a": "b"})


@pytest.mark.parametrize("streamed", [False, True])
@virtually
async def test_a_call_and_its_result_are_turns_of_one_program(streamed: bool) -> None:
    async with stock(["I look. " + CALL, "two million"]) as server:
        first = await responded(server, streamed, input="How many people live in Paris?", tools=[TOOL])
        said, call = first.output
        assert first.output_text.strip() == "I look."
        assert isinstance(call, ResponseFunctionToolCall)
        assert (call.name, json.loads(call.arguments)) == ("population", {"city": "Paris"})
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "2102650"}
        second = await responded(server, streamed, input=[result], tools=[TOOL], previous_response_id=first.id)
        assert (second.status, second.output_text, second.previous_response_id) == (
            "completed",
            "two million",
            first.id,
        )
        (program,) = await programs(server)
        assert (program["status"], program["calls"]) == ("succeeded", 3)
        prompt = server.engine.asked[1].messages
        assert [m.role for m in prompt] == ["user", "assistant", "tool"]
        assert prompt[1].content.strip() == "I look."
        assert json.loads(prompt[1].tool_calls[0])["id"] == call.call_id
        assert said.type == "message"


@virtually
async def test_a_conversation_goes_on_from_a_response_even_after_a_restart(tmp_path: Path) -> None:
    settings = Settings(journal=tmp_path / "journal.db")
    async with stock(["Ann"], settings=settings) as server:
        first = await responded(server, False, instructions="Be short.", input="My name is Ann. What is it?")
        unstored = await responded(server, False, input="Hello", store=False)
    async with stock(["Ann again"], settings=settings) as server:
        second = await responded(
            server, False, instructions="Be long.", input="And now?", previous_response_id=first.id
        )
        assert second.output_text == "Ann again"
        assert [(m.role, m.content) for m in server.engine.asked[0].messages] == [
            ("system", "Be long."),
            ("user", "My name is Ann. What is it?"),
            ("assistant", "Ann"),
            ("user", "And now?"),
        ]
        for gone in (unstored.id, "resp_00", first.id.replace("_0", "_7")):
            with pytest.raises(openai.NotFoundError) as caught:
                await responded(server, False, input="And now?", previous_response_id=gone)
            assert caught.value.param == "previous_response_id"


@virtually
async def test_items_become_messages() -> None:
    async with stock(["yes"]) as server:
        items: Any = [
            {"role": "developer", "content": "Be short."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Look."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I do."}]},
            {"type": "function_call", "call_id": "c1", "name": "a", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "b", "arguments": '{"x": 1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        ]
        await responded(server, False, input=items)
        (asked,) = server.engine.asked
        assert [(m.role, m.content, len(m.tool_calls), m.tool_call_id) for m in asked.messages] == [
            ("system", "Be short.", 0, ""),
            ("user", "Look.", 0, ""),
            ("assistant", "I do.", 2, ""),
            ("tool", "one", 0, "c1"),
            ("tool", "two", 0, "c2"),
        ]


@virtually
async def test_a_format() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    async with stock(['{"n": 1}']) as server:
        form: Any = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
        response = await responded(server, False, input="n?", text=form)
        assert response.output_text == '{"n": 1}'
        grammar = server.engine.asked[0].grammar
        assert grammar is not None and grammar.kind is GrammarKind.JSON_SCHEMA and json.loads(grammar.source) == schema


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"conversation": "c"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0]"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "5"}]}, "input[0].call_id"),
    ],
)
@virtually
async def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async with stock(["yes"]) as server:
        with pytest.raises(openai.BadRequestError) as caught:
            await server.openai.responses.create(model="echo", input="?", extra_body=fields)
        assert caught.value.param is not None and caught.value.param.startswith(param)


@virtually
async def test_an_output_without_its_call_is_refused_by_its_id() -> None:
    async with stock(["no call", "yes"]) as server:
        result: Any = {"type": "function_call_output", "call_id": "call_7", "output": "5"}
        first = await responded(server, False, input="?")
        for more in ({"input": [result]}, {"input": [result], "previous_response_id": first.id}):
            with pytest.raises(openai.BadRequestError, match=r"there is no function call 'call_7'"):
                await responded(server, False, **more)
        assert len(await programs(server)) == 1
