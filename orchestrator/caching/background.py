"""Engine work for the cache's own learning: shadow calls and the judge's questions, behind everything else.

Owns how many run at once. Never on the critical path: what finds no room is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

import orjson

from engine.protocol import (
    ChatMessage,
    EngineError,
    GenerateRequest,
    Grammar,
    GrammarKind,
    SamplingParams,
)
from orchestrator.caching.call_cache import LAST
from orchestrator.engines import EnginePool
from semantic_cache import JudgeCase, SameAnswer

log = logging.getLogger(__name__)

_VERDICTS = {"yes": True, "no": False}
_MAX_CHARS = 4_000
_SYSTEM = "You compare questions and answers. You reply with one word: yes, no, or unsure."


class Background:
    """At most `at_once` pieces of work; more are refused."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._tasks: set[asyncio.Task[None]] = set()
        self.dropped = self.failed = 0

    def start(self, work: Coroutine[Any, Any, None]) -> bool:
        """Run it, or close it unrun if there is no room."""
        if len(self._tasks) >= self._at_once:
            self.dropped += 1
            work.close()
            return False
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failed += 1
            log.debug("work in the background failed", exc_info=task.exception())

    async def settle(self) -> None:
        """Return once nothing runs."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Cancel what runs."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class EngineJudge:
    """Asks a model whether a cached answer may stand for a question, where comparing the answers tells nothing."""

    def __init__(self, engines: EnginePool, model: str) -> None:
        self._engines = engines
        self._model = model
        self._plain = SameAnswer()
        self._asked = 0

    async def same(self, case: JudgeCase) -> bool | None:
        """True, False, or None when neither the comparison nor the model can tell."""
        verdict = await self._plain.same(case)
        if verdict is not None:
            return verdict
        try:
            engine = await self._engines.serving(self._engines.for_model(self._model))
            self._asked += 1
            request = GenerateRequest(
                id=f"cache-judge/{self._asked}",
                program="cache-judge",
                messages=(ChatMessage("system", _SYSTEM), ChatMessage("user", _question(case))),
                model=self._model,
                sampling=SamplingParams(max_tokens=4),
                key=LAST,
                salt=case.tenant,
                grammar=Grammar(GrammarKind.REGEX, "yes|no|unsure") if engine.capabilities.grammar else None,
            )
            text = ""
            async with aclosing(engine.generate(request)) as chunks:  # type: ignore[type-var]  # an async generator
                async for chunk in chunks:
                    text += chunk.text
        except EngineError as error:
            log.debug("the judge's model did not answer: %s", error)
            return None
        return _VERDICTS.get(text.strip().strip(".!\"'").casefold())


def _question(case: JudgeCase) -> str:
    lines = [f"Question A: {case.question[:_MAX_CHARS]}", f"Question B: {case.cached_question[:_MAX_CHARS]}"]
    lines.append(f"Answer to B: {_text(case.cached)}")
    if case.has_fresh:
        lines.append(f"Answer to A: {_text(case.fresh)}")
        lines.append("Do both answers say the same?")
    else:
        lines.append("Is the answer to B also a fully correct answer to A?")
    return "\n".join(lines)


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else orjson.dumps(value).decode())[:_MAX_CHARS]
