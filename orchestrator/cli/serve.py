"""`tenuto serve`: the server process. One line of JSON on stdout when it accepts connections; logs go to stderr.

Owns the socket, the signals and the watch on the parent process. Never anything of a program's life.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Config, Journal, Model, fail

if TYPE_CHECKING:
    from orchestrator.config import Settings

STDIN = 0
BACKLOG = 2048


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes any free one. Default: 7878.")] = None,
    model: Model = None,
    journal: Journal = None,
    policy: Annotated[str | None, typer.Option(help="Scheduling policy.")] = None,
    retention: Annotated[
        str | None, typer.Option(help="What is kept of a paused program's KV; lru: nothing. Default: tenuto.")
    ] = None,
    cache: Annotated[str | None, typer.Option(help="Semantic cache: off, exact or semantic. Default: off.")] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Folder of the cache's answers and embedding model. Default: memory.")
    ] = None,
    compile: Annotated[
        bool | None, typer.Option("--compile", help="Compile the model's small parts for this CPU.")
    ] = None,
    config: Config = None,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="Stop when stdin, a pipe, is closed.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Start the server and run it until it is told to stop (SIGINT, SIGTERM)."""
    # The cache's scans are products of one vector: threads would only wait for each other. Before numpy is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from orchestrator.config import ConfigError, load, misspelt_variables
    from orchestrator.errors import RuntimeFault

    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        fail(f"--log-level {log_level!r}: choose one of debug, info, warning, error")
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load(
            config,
            host=host,
            port=port,
            model=model,
            journal=journal,
            policy=policy,
            retention=retention,
            semantic_cache=_given(mode=cache, directory=cache_dir),
            engine=_given(compile=compile),
        )
    except ConfigError as fault:
        fail(str(fault))
    for line in misspelt_variables(os.environ):
        logging.getLogger(__name__).warning(line)
    listener = _listen(settings.host, settings.port)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings, listener, exit_with_parent))
    except ConfigError as fault:
        fail(str(fault))
    except RuntimeFault as fault:  # the journal, most often: it says what is wrong with its file
        fail(fault.detail, code=1)


def _given(**flags: Any) -> dict[str, Any] | None:
    """The flags of a section that were given; None if there are none."""
    return {name: value for name, value in flags.items() if value is not None} or None


async def _serve(settings: Settings, listener: socket.socket, exit_with_parent: bool) -> None:
    from orchestrator.app import create_app
    from orchestrator.cli.server import Server, server_config, settle_interpreter

    app = create_app(settings, listens=True)
    server = Server(
        server_config(app),
        on_listening=lambda: _announce(listener),
        on_stopping=lambda: app.state.parts.streams.stop(),
    )
    if exit_with_parent and _stdin_is_pipe():
        _on_end_of_stdin(server.stop)
    # The lifespan is ours, not uvicorn's, so that what goes wrong in it can be told in a line.
    async with app.router.lifespan_context(app):
        settle_interpreter()
        await server.serve(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. Ends the command, saying why, if there can be none."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as fault:
        fail(f"cannot listen on {host} port {port}: {fault.strerror or fault}. Choose another with --host and --port")


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(json.dumps({"tenuto": "listening", "url": url, "pid": os.getpid()}), flush=True)


def _stdin_is_pipe() -> bool:
    """True for pipes and for the socket pairs that some launchers use instead."""
    mode = os.fstat(STDIN).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _on_end_of_stdin(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(STDIN, 65536):
            loop.remove_reader(STDIN)
            logging.getLogger(__name__).info("the parent process is gone: stopping")
            stop()

    loop.add_reader(STDIN, read)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
