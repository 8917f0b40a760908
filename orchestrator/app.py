"""The server as an ASGI app: its parts are made, started and closed here, and nowhere else.

Never listens on a socket: that is the command line's work, and tests need none.
"""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from engine.protocol import Engine
from orchestrator.api import cache as cache_routes
from orchestrator.api import dashboard, health, openapi, problems, programs, workers, workflows
from orchestrator.api import engines as engine_routes
from orchestrator.api.auth import KeyRing
from orchestrator.api.edge import Edge
from orchestrator.api.openai import chat, responses
from orchestrator.api.parts import Parts
from orchestrator.caching.revision import weights_revision
from orchestrator.clock import LoopClock, OrchestratorClock
from orchestrator.config import ConfigError, Settings, is_loopback
from orchestrator.engines import EnginePool
from orchestrator.engines.local import local_engines, model_source
from orchestrator.journal import Journal, NullJournal, SqliteJournal
from orchestrator.retention import make_rule
from orchestrator.runtime import Runtime
from orchestrator.scheduling import make_policy
from orchestrator.telemetry import Metrics, Telemetry, from_environment, metrics_from_environment
from orchestrator.tools import Toolbox, WorkerPool
from orchestrator.tools.settings import hosts_of
from orchestrator.workflows import Workflows

if TYPE_CHECKING:
    from orchestrator.caching.server_cache import ServerCache

DESCRIPTION = """Tenuto serves programs, not requests: a program is one run of a workflow, LLM calls and function calls
joined by semantic variables.

Errors are RFC 9457 problem documents. Their `errors` locate each fault by a JSON pointer (RFC 6901) into the body, or
`/query/…`, `/path/…` and `/header/…` for parameters, and say what to do about it."""


def assemble(
    settings: Settings,
    *,
    clock: OrchestratorClock | None = None,
    engines: Iterable[Engine] | None = None,
    rng: Random | None = None,
    telemetry: Telemetry | None = None,
    metrics: Metrics | None = None,
) -> Parts:
    """The parts of a server, not yet started; needs a running loop. What is not given is the real one.

    Raises `ConfigError` if the settings name a model, engine options or cache categories that cannot be.
    """
    clock = clock or LoopClock()
    rng = rng or SystemRandom()
    limits = settings.limits
    pool = EnginePool(local_engines(settings, clock=clock) if engines is None else engines)
    workers = WorkerPool(limits=limits, rng=rng)
    metrics = metrics or metrics_from_environment(clock.wall)
    cache = _cache(settings, pool, clock, rng, metrics)
    tools = Toolbox(workers, clock=clock, limits=limits, hosts=hosts_of(settings.tools, clock=clock, limits=limits))
    journal = _journal(settings, clock)
    runtime = Runtime(
        clock=clock,
        engines=pool,
        workers=workers,
        journal=journal,
        policy=make_policy(settings.policy),
        retention=make_rule(settings.retention),
        limits=limits,
        rng=rng,
        telemetry=telemetry or from_environment(rng),
        metrics=metrics,
        cache=cache,
        tools=tools,
        trace_steps=bool(settings.engine.trace_steps),
    )
    return Parts(
        runtime=runtime,
        engines=pool,
        workers=workers,
        tools=tools,
        limits=limits,
        started_at=clock.wall(),
        workflows=Workflows(journal, clock, limits),
        cache=cache,
    )


Assemble = Callable[[Settings], Parts]


class Api(FastAPI):
    """FastAPI, with a description of the API that knows the wire types."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = openapi.build(self)
        return self.openapi_schema


def create_app(settings: Settings, *, assemble: Assemble = assemble, listens: bool = False) -> Api:
    """The app of one server. Its parts live from the lifespan's start to its end (`app.state.parts`).

    `assemble` makes them, so that tests can give other engines and clocks. `listens`: the app is reached through a
    socket, so a server without keys answers to loopback names only.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(assemble(settings)) as parts:
            app.state.parts = parts
            yield

    app = Api(
        title="Tenuto",
        version=importlib.metadata.version("tenuto"),
        description=DESCRIPTION,
        docs_url=None,  # their pages load scripts from other sites
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    for router in (
        programs.router,
        chat.router,
        responses.router,
        workflows.router,
        workers.router,
        engine_routes.router,
        cache_routes.router,
        health.router,
        dashboard.router,
    ):
        # Not `include_router`: matching through nested routers costs more than all else of a small request.
        app.router.routes.extend(router.routes)
    problems.install(app)
    server, numbers = SystemRandom().getrandbits(32), itertools.count(1)
    app.add_middleware(
        Edge,
        keys=KeyRing(settings.api_keys),
        answers_to=is_loopback if listens and not settings.api_keys else None,
        new_request_id=lambda: f"req_{server:08x}{next(numbers):06x}",
    )
    return app


@asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[Parts]:
    """Start the parts and close them again, in the order that lets running calls end well.

    Engines load in the background: the server answers at once, and calls wait for them.
    """
    async with AsyncExitStack() as stack:
        stack.push_async_callback(parts.engines.close)
        parts.engines.start()
        if parts.cache is not None:
            stack.push_async_callback(parts.cache.close)
            await _open_cache(parts.cache)
        stack.push_async_callback(parts.tools.close)
        await _start_tools(parts.tools)
        stack.push_async_callback(parts.runtime.close)
        await parts.runtime.start()
        await parts.workflows.load()
        stack.callback(parts.streams.stop)
        yield parts


async def _start_tools(tools: Toolbox) -> None:
    """Make the server's own tools ready. Raises ConfigError, naming the tool or server that cannot be."""
    try:
        await tools.start()
    except ValueError as error:
        raise ConfigError(f"tools: {error}") from error


def _cache(
    settings: Settings, pool: EnginePool, clock: OrchestratorClock, rng: Random, metrics: Metrics
) -> ServerCache | None:
    """The semantic cache, not yet open; None if it is off. Raises ConfigError."""
    options = settings.semantic_cache
    if options.mode == "off":
        return None
    from orchestrator.caching.server_cache import ServerCache  # a server without a cache need not load it
    from semantic_cache import InvalidPolicy

    source = model_source(settings.model) or ""
    # Files from the hub are not here yet: their name stands for them.
    revision = weights_revision(Path(source)) if Path(source).is_dir() else source
    try:
        return ServerCache(options, pool, clock, rng, weights=revision, metrics=metrics)
    except InvalidPolicy as fault:
        raise ConfigError(f"semantic_cache: {fault}. Correct it under [semantic_cache]") from None


async def _open_cache(cache: ServerCache) -> None:
    from semantic_cache import CacheError

    try:
        await cache.open()
    except CacheError as fault:
        raise ConfigError(f"semantic_cache: {fault}") from None


def _journal(settings: Settings, clock: OrchestratorClock) -> Journal:
    if settings.journal is None:
        return NullJournal()
    return SqliteJournal(
        settings.journal,
        clock=clock,
        synchronous=settings.journal_synchronous,
        keep_ended=settings.limits.journal_programs,
    )
