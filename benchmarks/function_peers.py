"""The same 1,000 parallel no-op calls in other frameworks, with their own message handling, in the same run.

Used by `benchmarks.functions`. A peer that is not installed is absent, never guessed. The model is a double that asks
for all the calls in one message; nothing is sent anywhere.
"""

from __future__ import annotations

import importlib.metadata
import json
from time import perf_counter
from typing import Any

CALLS = 1000


async def langgraph(calls: int = CALLS) -> float:
    """LangGraph's ToolNode, async, inside a compiled graph of that one node."""
    from langchain_core.messages import AIMessage
    from langchain_core.tools import tool
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    @tool
    async def noop(x: int) -> int:
        """Nothing."""
        return x

    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([noop]))
    graph.add_edge(START, "tools")
    graph.add_edge("tools", END)
    app = graph.compile()
    asked = [{"name": "noop", "args": {"x": i}, "id": f"c{i}", "type": "tool_call"} for i in range(calls)]
    began = perf_counter()
    result = await app.ainvoke({"messages": [AIMessage(content="", tool_calls=asked)]})
    took = perf_counter() - began
    assert len(result["messages"]) == calls + 1
    return took / calls


async def pydantic_ai(calls: int = CALLS) -> float:
    """pydantic-ai's agent with a function model."""
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import FunctionModel

    began = 0.0

    def answer(messages: Any, info: Any) -> ModelResponse:
        nonlocal began
        if len(messages) == 1:
            began = perf_counter()
            return ModelResponse(parts=[ToolCallPart("noop", {"x": i}, f"c{i}") for i in range(calls)])
        return ModelResponse(parts=[TextPart("done")])

    agent = Agent(FunctionModel(answer))

    @agent.tool_plain
    async def noop(x: int) -> int:
        return x

    await agent.run("go")
    return (perf_counter() - began) / calls


async def openai_agents(calls: int = CALLS) -> float:
    """The OpenAI Agents SDK with a model double, tracing off."""
    from agents import Agent, ModelResponse, RunConfig, Runner, Usage, function_tool
    from agents.models.interface import Model
    from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

    began = 0.0

    class Double(Model):
        asked = 0

        async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
            nonlocal began
            self.asked += 1
            if self.asked == 1:
                began = perf_counter()
                output: list[Any] = [
                    ResponseFunctionToolCall(
                        type="function_call", name="noop", call_id=f"c{i}", arguments=json.dumps({"x": i})
                    )
                    for i in range(calls)
                ]
            else:
                text = ResponseOutputText(type="output_text", text="done", annotations=[])
                message = ResponseOutputMessage(
                    type="message", id="m", role="assistant", status="completed", content=[text]
                )
                output = [message]
            return ModelResponse(output=output, usage=Usage(), response_id=None)

        def stream_response(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    @function_tool
    async def noop(x: int) -> int:
        """Nothing."""
        return x

    agent = Agent(name="bench", model=Double(), tools=[noop])
    await Runner.run(agent, "go", run_config=RunConfig(tracing_disabled=True))
    return (perf_counter() - began) / calls


PEERS = {"langgraph": langgraph, "pydantic-ai-slim": pydantic_ai, "openai-agents": openai_agents}


async def measured(runs: int) -> dict[str, dict[str, Any]]:
    """Best and median seconds a call of each peer that is installed."""
    found: dict[str, dict[str, Any]] = {}
    for package, peer in PEERS.items():
        try:
            version = importlib.metadata.version(package)
            seconds = sorted([await peer() for _ in range(runs + 1)][1:])
        except (ImportError, importlib.metadata.PackageNotFoundError) as error:
            found[package] = {"absent": str(error)}
            continue
        found[package] = {"version": version, "best_s": seconds[0], "median_s": seconds[len(seconds) // 2]}
    return found
