"""Which engine serves which model.

Owns the engines of one server and their start and end. Never decides what runs when: that is scheduling. Models
that workers host are not here: each belongs to one toolset of one tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from engine.protocol import CountsBlocks, Engine, ModelInfo
from orchestrator.engines.errors import NoEngine, UnknownModel
from orchestrator.engines.supervisor import EngineState, EngineStatus, SupervisedEngine
from orchestrator.telemetry import names


class EnginePool:
    """Engines by the name of the model that they serve; the first one is the default.

    Invariant: `default` is None exactly when the pool is empty.
    """

    def __init__(self, engines: Iterable[Engine] = (), *, default: str | None = None) -> None:
        self._engines = {_model_name(engine): engine for engine in engines}
        self._default = next(iter(self._engines), None)
        if default is not None:
            self.for_model(default)
            self._default = default

    @property
    def default(self) -> str | None:
        """Name of the model that serves calls which name none."""
        return self._default

    def models(self) -> tuple[str, ...]:
        """Names of the models that calls may ask for, the default first."""
        rest = (name for name in self._engines if name != self._default)
        return (*((self._default,) if self._default is not None else ()), *rest)

    def for_model(self, name: str | None) -> Engine:
        """The engine of a model, or the default one. Raises `NoEngine`, `UnknownModel`."""
        wanted = name or self._default
        if wanted is None:
            raise NoEngine("this server runs without a model: start it with --model DIRECTORY or --model bundled")
        engine = self._engines.get(wanted)
        if engine is None:
            raise UnknownModel(f"no engine serves model {wanted!r}; this server has {self._names()}")
        return engine

    async def serving(self, name: str | None) -> Engine:
        """The engine of a model once its capabilities are known: before its first start nobody knows what it can do.

        Raises what `for_model` raises, and what `SupervisedEngine.ready` does.
        """
        engine = self.for_model(name)
        if isinstance(engine, SupervisedEngine) and engine.state.capabilities is None:
            await engine.ready()
        return engine

    def states(self) -> tuple[EngineState, ...]:
        """What every engine is doing; engines without a supervisor are always ready."""
        return tuple(_state(self._engines[name]) for name in self.models())

    def kv_blocks(self) -> list[tuple[int, dict[str, str]]]:
        """Blocks of KV by engine, tier and state, with the attributes of the metric; of engines that tell."""
        return [
            (getattr(blocks, state), {names.ENGINE: name, names.TIER: blocks.tier.value, names.KV_STATE: state})
            for name, engine in self._engines.items()
            if isinstance(engine, CountsBlocks)
            for blocks in engine.kv_blocks()
            for state in ("free", "active", "leased", "cached")
        ]

    def start(self) -> None:
        """Start loading every model, side by side, in the background."""
        for engine in self._engines.values():
            if isinstance(engine, SupervisedEngine):
                engine.start()

    async def close(self) -> None:
        """Close every engine; one that fails to close does not keep the others open."""
        results = await asyncio.gather(*(e.close() for e in self._engines.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _names(self) -> str:
        return ", ".join(repr(name) for name in self.models()) or "none"


def _model_name(engine: Engine) -> str:
    # A supervised engine has its model's name, known before the model is loaded.
    return engine.name if isinstance(engine, SupervisedEngine) else engine.model.name


def _state(engine: Engine) -> EngineState:
    if isinstance(engine, SupervisedEngine):
        return engine.state
    model: ModelInfo = engine.model
    return EngineState(engine.name, EngineStatus.READY, 0, "", model, engine.capabilities)
