"""The docs' promises: their Python runs, and every error name is explained."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine.protocol
import orchestrator.api.problems
import orchestrator.engines.errors
import orchestrator.errors
from orchestrator.simulation.trace import parse
from orchestrator.tools.failures import FailureType
from orchestrator.tools.settings import ToolSettings
from tenuto.options import CallOptions, ToolDeclaration, ToolOptions
from tenuto.testing import EchoModel, override, server
from tenuto.wire import PlanOptions
from tests.orchestrator.api.openai.support import stock
from tests.orchestrator.api.support import virtually

ROOT = Path(__file__).parents[2]


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def module_of(sources: list[str], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The blocks as one imported module: decorators read annotations in the module where they stand."""
    path = tmp_path / f"{name}.py"
    path.write_text("\n".join(sources))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_first_program_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = blocks("README.md")
    declared = source.split("with local(")[0]
    page = module_of([declared], tmp_path, "readme_page", monkeypatch)
    with server(), override(EchoModel()):
        assert isinstance(page.both.run("harbours"), str)


def test_the_sdk_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module_of(blocks("docs/sdk.md"), tmp_path, "sdk_page", monkeypatch).test_best()


@virtually
async def test_the_example_for_openais_clients_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = module_of(blocks("docs/http.md"), tmp_path, "http_page", monkeypatch)
    call = '{"name": "population", "arguments": {"city": "Paris"}}'
    async with stock([call, "two million"], model="geo-sql") as served:
        assert await page.ask(served.openai, "How many people live in Paris?") == "two million"
        (program,) = (await served.client.get("/v1/programs")).json["data"]
        assert (program["status"], program["calls"]) == ("succeeded", 3)


def test_the_cache_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = module_of(blocks("docs/cache.md"), tmp_path, "cache_page", monkeypatch)
    page.test_the_second_question_costs_nothing()


def test_the_simulation_page_runs_and_names_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = module_of(blocks("docs/simulation.md"), tmp_path, "simulation_page", monkeypatch)
    assert len(page.calm.programs) == len(page.rough.programs) == 8
    command = (ROOT / "orchestrator/cli/simulate.py").read_text()
    text = (ROOT / "docs/simulation.md").read_text()
    (line,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert len(parse(line).nodes) == 3
    named = set(re.findall(r"`(--[a-z-]+)", text)) - {"--journal"}
    assert named and all(f'"{option}"' in command for option in named)


def test_the_tools_page_names_what_there_is() -> None:
    text = (ROOT / "docs/tools.md").read_text()
    (settings,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    parsed = ToolSettings.model_validate(tomllib.loads(settings)["tools"])
    assert list(parsed.mcp) == ["files", "search"] and list(parsed.openapi) == ["weather"]
    rules = text.split("## Rules")[1].split("Caps of")[0]
    options = set(
        re.findall(r"[`(, ]`?([a-z_]+)`?[=`,]", "\n".join(row.split("|")[1] for row in rules.splitlines()[4:] if row))
    )
    known = {*ToolDeclaration.__annotations__, *ToolOptions.__annotations__, *CallOptions.__annotations__}
    assert options - {"attempts", "first_wait_s", "max_wait_s", "on"} <= known
    assert {"speculate", "share", "cache", "partial", "max_running", "total_timeout"} <= options
    (plan,) = re.findall(r"`(\{.format.*?\})`", text)
    assert PlanOptions.model_validate_json(plan).tools == ("search",)


def fault_names() -> Iterator[str]:
    for module in (engine.protocol, orchestrator.errors, orchestrator.engines.errors):
        for thing in vars(module).values():
            name = getattr(thing, "name", None)
            if isinstance(thing, type) and issubclass(thing, Exception) and isinstance(name, str):
                yield name
    yield from map(str, FailureType)
    for path in [*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "sdk" / "tenuto").rglob("*.py")]:
        yield from re.findall(r'(?:CallFailure|TaskFailure|_failed)\(\s*"([a-z_]+)"', path.read_text())
        yield from re.findall(r'ErrorValue\(\s*type="([a-z_]+)"', path.read_text())


@pytest.mark.parametrize("name", sorted(set(fault_names())))
def test_every_error_name_is_explained(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "http.md").read_text(), f"docs/http.md says nothing of {name}"


def problems() -> Iterator[tuple[str, str]]:
    for fault in (*vars(orchestrator.errors).values(), *vars(orchestrator.api.problems).values()):
        if isinstance(fault, type) and issubclass(fault, orchestrator.errors.RuntimeFault):
            yield fault.name, str(fault.status)
    edge, other = ((ROOT / "orchestrator/api" / file).read_text() for file in ("edge.py", "problems.py"))
    yield from re.findall(r'name="(\w+)",\s+status=(\d+)', edge)
    yield from (
        (name, status) for status, name in re.findall(r'== (\d+):\n(?:.*\n)?? +name, title.*? = "(\w+)"', other)
    )


def test_every_problem_is_explained_with_its_status() -> None:
    table = (ROOT / "docs/http.md").read_text().partition("## Problems")[2].partition("## Why")[0]
    rows = re.findall(r"^\| (`.*?) \| ([\d, ]+) \|", table, re.MULTILINE)
    told = {(name, status) for names, status in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == set(problems())
