"""Which engines serve which model.

Owns the engines of one server and their start and end. Never decides what runs when and where: that is scheduling.
Models that workers host are not here: each belongs to one toolset of one tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from engine.protocol import CountsBlocks, Engine, ModelInfo
from orchestrator.engines.errors import NoEngine, UnknownModel
from orchestrator.engines.supervisor import EngineState, EngineStatus, SupervisedEngine
from orchestrator.telemetry import names


class EnginePool:
    """Engines by the name of the model that they serve, one or several each; the first model is the default.

    Invariants: `default` is None exactly when the pool is empty; no two engines have one name.
    """

    def __init__(self, engines: Iterable[Engine] = (), *, default: str | None = None) -> None:
        self._engines: dict[str, list[Engine]] = {}
        for engine in engines:
            assert all(engine.name != other.name for other in self.all()), f"two engines are called {engine.name}"
            self._engines.setdefault(_model_name(engine), []).append(engine)
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

    def all(self) -> Iterator[Engine]:
        """Every engine."""
        for engines in self._engines.values():
            yield from engines

    def for_model(self, name: str | None) -> Engine:
        """An engine of a model, or of the default one: the first. Raises `NoEngine`, `UnknownModel`."""
        return self.replicas(name)[0]

    def replicas(self, name: str | None) -> Sequence[Engine]:
        """All engines of a model, or of the default one: at least one. Raises `NoEngine`, `UnknownModel`."""
        wanted = name or self._default
        if wanted is None:
            raise NoEngine("this server runs without a model: start it with --model DIRECTORY or --model bundled")
        engines = self._engines.get(wanted)
        if engines is None:
            raise UnknownModel(f"no engine serves model {wanted!r}; this server has {self._names()}")
        return engines

    def others(self, engine: Engine) -> list[Engine]:
        """The other engines of its model."""
        return [other for other in self.replicas(_model_name(engine)) if other is not engine]

    @staticmethod
    async def serving(engine: Engine) -> Engine:
        """The engine once its capabilities are known: before its first start nobody knows what it can do.

        Raises what `SupervisedEngine.ready` raises.
        """
        if isinstance(engine, SupervisedEngine) and engine.state.capabilities is None:
            await engine.ready()
        return engine

    def states(self) -> tuple[EngineState, ...]:
        """What every engine is doing; engines without a supervisor are always ready."""
        return tuple(_state(engine) for name in self.models() for engine in self._engines[name])

    def kv_blocks(self) -> list[tuple[int, dict[str, str]]]:
        """Blocks of KV by engine, tier and state, with the attributes of the metric; of engines that tell."""
        return [
            (getattr(blocks, state), {names.ENGINE: engine.name, names.TIER: blocks.tier.value, names.KV_STATE: state})
            for engine in self.all()
            if isinstance(engine, CountsBlocks)
            for blocks in engine.kv_blocks()
            for state in ("free", "active", "leased", "cached")
        ]

    def start(self) -> None:
        """Start loading every model, side by side, in the background."""
        for engine in self.all():
            if isinstance(engine, SupervisedEngine):
                engine.start()

    async def close(self) -> None:
        """Close every engine; one that fails to close does not keep the others open."""
        results = await asyncio.gather(*(engine.close() for engine in self.all()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _names(self) -> str:
        return ", ".join(repr(name) for name in self.models()) or "none"


def replica_name(model: str, number: int) -> str:
    """The name of one of several engines of a model: `model`, `model@2`, `model@3`."""
    return f"{model}@{number + 1}" if number else model


def _model_name(engine: Engine) -> str:
    # A supervised engine knows its model's name before the model is loaded.
    return engine.serves if isinstance(engine, SupervisedEngine) else engine.model.name


def _state(engine: Engine) -> EngineState:
    if isinstance(engine, SupervisedEngine):
        return engine.state
    model: ModelInfo = engine.model
    return EngineState(engine.name, EngineStatus.READY, 0, "", model, engine.capabilities)
