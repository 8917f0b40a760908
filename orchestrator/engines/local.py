"""The engine that a server starts itself: which model directory it serves, and how its process is started.

Never loads weights: that is the engine process's work, and torch is never imported here.
"""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

from engine.client import EngineProcess
from engine.clock import Clock
from engine.config import EngineConfig
from orchestrator.config import BUNDLED_MODEL, NO_MODEL, ConfigError, Settings
from orchestrator.engines.pool import replica_name
from orchestrator.engines.supervisor import SupervisedEngine

BUNDLED_NAME = "geo-sql"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class LocalProcess(EngineProcess):
    """The engine process, as its supervisor sees it."""

    @property
    def alive(self) -> bool:
        return self._lost is None

    async def lost(self) -> str:
        return f"the engine process ended with status {await self.ended()}"


def model_source(model: str) -> str | None:
    """What `--model` means to the engine: a directory, or the id of a model on the hub; None for "none".

    Raises ConfigError if there is no such directory, and it looks like no id.
    """
    if _HUB_ID.fullmatch(model) and not Path(model).expanduser().exists():
        return model
    directory = model_directory(model)
    return None if directory is None else str(directory)


def model_directory(model: str) -> Path | None:
    """The directory that `--model` means; None for "none". Raises ConfigError if there is no such directory."""
    if model == NO_MODEL:
        return None
    if model == BUNDLED_MODEL or model.startswith(f"{BUNDLED_MODEL}:"):
        return _bundled(model)
    directory = Path(model).expanduser()
    if not directory.is_dir():
        raise ConfigError(
            f"model = {model!r}: there is no such directory. "
            f"Give a model directory, the id of a model on the hub ('owner/name'), '{BUNDLED_MODEL}' or '{NO_MODEL}'"
        )
    return directory.absolute()


def _bundled(model: str) -> Path:
    """The directory of `bundled`, or of `bundled:NAME`. Raises ConfigError."""
    home = Path(str(importlib.resources.files("orchestrator"))) / "bundled"
    name = model.partition(":")[2] or BUNDLED_NAME
    if (home / name / "config.json").is_file():
        return home / name
    there = sorted(path.parent.name for path in home.glob("*/config.json"))
    if not there:
        raise ConfigError(f"model = {model!r}: this installation has no bundled model in {home}. Reinstall it")
    choices = ", ".join(f"'{BUNDLED_MODEL}:{each}'" for each in there)
    raise ConfigError(f"model = {model!r}: there is no such bundled model. Choose one of: {choices}")


def engine_config(settings: Settings, source: str, number: int = 0) -> EngineConfig:
    """What the engine process with this number is told. Raises ConfigError for options that do not go together."""
    options = settings.engine.model_dump(exclude_none=True, exclude={"replicas"})
    if options.get("device") == "cuda" and settings.engine.replicas > 1:
        options["device"] = f"cuda:{number}"
    try:
        return EngineConfig(model=source, name=Path(source).name, **options)
    except ValueError as fault:
        raise ConfigError(f"engine: {fault}. Correct it under [engine]") from None


def local_engines(settings: Settings, *, clock: Clock) -> tuple[SupervisedEngine, ...]:
    """The supervised engines of the configured model; none if the model is "none". Raises ConfigError."""
    source = model_source(settings.model)
    if source is None:
        return ()
    return tuple(
        _supervised(engine_config(settings, source, number), number, settings.start_wait_s, clock)
        for number in range(settings.engine.replicas)
    )


def _supervised(config: EngineConfig, number: int, start_wait_s: float, clock: Clock) -> SupervisedEngine:
    async def start() -> LocalProcess:
        return await LocalProcess.start(config)

    name = replica_name(config.name, number)
    return SupervisedEngine(name, start, clock=clock, serves=config.name, start_wait_s=start_wait_s)
