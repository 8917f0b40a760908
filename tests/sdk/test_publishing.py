"""A workflow that awaits nothing is a graph over its arguments."""

from __future__ import annotations

import pytest

from tenuto import InvalidArgument, llm, workflow


@llm(max_tokens=20)
def sketch(topic: str, style: str) -> str:
    """One {{style}} sentence about {{topic}}."""


@llm(max_tokens=20)
def merge(first: str, second: str) -> str:
    """Join: {{first}} / {{second}}"""


@workflow(objective="throughput")
async def both(topic: str, style: str = "funny") -> str:
    """Two sentences in one."""
    return merge(sketch(topic, "sober"), sketch(topic, style))


@workflow
async def awaits(topic: str) -> str:
    return await sketch(topic, "sober")


@workflow
async def looks(topic: str) -> str:
    return sketch(topic, "sober") if topic else sketch("nothing", "sober")


def test_a_definition_has_an_input_for_each_argument() -> None:
    definition = both.definition()
    assert definition.description == "Two sentences in one."
    assert definition.objective.kind == "throughput"
    wanted = {name: (one.required, one.default) for name, one in definition.inputs.items()}
    assert wanted == {"topic": (True, None), "style": (False, "funny"), "input.style": (False, "sober")}
    assert [call.id for call in definition.calls] == ["sketch", "sketch.2", "merge"]
    assert definition.outputs == ("merge",)


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="awaits a Var"):
        awaits.definition()
    with pytest.raises(TypeError, match="truth test"):
        looks.definition()
