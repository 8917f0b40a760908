"""Run a local engine's core to the end and collect what each request got."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.local import LocalEngine
from engine.protocol import EngineError, FinishReason, GenerateRequest, SamplingParams, Usage


@dataclass
class Result:
    text: str = ""
    chunks: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    usage: Usage | None = None
    error: EngineError | None = None


def collect(engine: LocalEngine, results: dict[str, Result], steps: int = 100_000) -> None:
    """Step until there is no work, or `steps` times; every invariant is checked after each step."""
    for _ in range(steps):
        if not engine.has_work:
            return
        for name, item in engine.step():
            result = results.setdefault(name, Result())
            assert result.finish is None and result.error is None, "something came after the end"
            if isinstance(item, EngineError):
                result.error = item
                continue
            result.text += item.text
            result.chunks.append(item.text)
            result.ids += item.token_ids
            result.finish, result.usage = item.finish, item.usage
        engine.check()


def serve(engine: LocalEngine, *requests: GenerateRequest) -> dict[str, Result]:
    """Submit all at once and run to the end."""
    results: dict[str, Result] = {}
    for request in requests:
        engine.submit(request)
    collect(engine, results)
    return results


def request(
    name: str,
    prompt: list[int],
    count: int,
    *,
    program: str = "p",
    ignore_eos: bool = True,
    key: float = 0.0,
    **sampling: object,
) -> GenerateRequest:
    return GenerateRequest(
        name,
        program,
        prompt_ids=tuple(prompt),
        sampling=SamplingParams(max_tokens=count, ignore_eos=ignore_eos, **sampling),  # type: ignore[arg-type]
        key=(key,),
    )
