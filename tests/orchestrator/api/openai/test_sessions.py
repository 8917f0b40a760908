"""Named programs of stock clients outlive the server; strangers get nothing of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from orchestrator.api.auth import make_key
from orchestrator.config import Settings
from tests.orchestrator.api.openai.support import stock
from tests.orchestrator.api.openai.test_chat import CALL, USER, programs, said
from tests.orchestrator.api.support import virtually


@virtually
async def test_a_named_program_goes_on_after_a_restart(tmp_path: Path) -> None:
    settings = Settings(journal=tmp_path / "journal.db")
    ids = []
    for _ in range(2):
        async with stock(["yes"], settings=settings) as server:
            raw = await server.openai.chat.completions.with_raw_response.create(
                model="echo", messages=USER, extra_headers={"x-program-id": "s-1"}
            )
            ids.append(raw.headers["x-program-id"])
            view = (await server.client.get(f"/v1/programs/{ids[-1]}")).json
    assert ids[0] == ids[1]
    assert [call["usage"]["prompt_tokens"] for call in view["call_views"]] == [7, 7]
    assert [call["finish"] for call in view["call_views"]] == ["stop", "stop"]


@virtually
async def test_a_tool_that_is_out_when_the_server_stops_is_waited_for_again(tmp_path: Path) -> None:
    settings = Settings(journal=tmp_path / "journal.db")
    async with stock([CALL], settings=settings) as server:
        turn = await said(server, USER, False)
    async with stock(["two million"], settings=settings) as server:
        await asyncio.sleep(60)
        asks = {"role": "assistant", "content": "", "tool_calls": turn["calls"]}
        result = {"role": "tool", "tool_call_id": turn["calls"][0]["id"], "content": "2102650"}
        assert (await said(server, [*USER, asks, result], False))["content"] == "two million"
        (program,) = await programs(server)
        assert [(c["id"], c["state"]) for c in program["call_views"]] == [
            ("turn0", "ended"),
            ("turn0-0", "ended"),
            ("turn2", "ended"),
        ]


@virtually
async def test_keys_are_asked_for_and_tenants_do_not_meet() -> None:
    keys = dict(zip("ab", (make_key(tenant, tenant.encode() * 24) for tenant in "ab"), strict=True))
    settings = Settings(api_keys=tuple(key for _, key in keys.values()))
    async with stock([CALL], settings=settings) as server:
        with pytest.raises(openai.AuthenticationError) as caught:
            await server.openai.chat.completions.create(model="echo", messages=USER)
        assert caught.value.code == "unauthorized"
        server.openai.api_key = keys["a"][0]
        turn = await said(server, USER, False)
        server.openai.api_key = keys["b"][0]
        asks: Any = {"role": "assistant", "content": "", "tool_calls": turn["calls"]}
        result = {"role": "tool", "tool_call_id": turn["calls"][0]["id"], "content": "forged"}
        await said(server, [*USER, asks, result], False)
        header = {"authorization": f"Bearer {keys['a'][0]}"}
        (program,) = (await server.client.request("GET", "/v1/programs", headers=header)).json["data"]
        assert (program["status"], program["calls"], program["calls_ended"]) == ("running", 2, 1)
