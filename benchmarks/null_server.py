"""`python -m benchmarks.null_server --journal FILE`: the production server, its model replaced by `NullEngine`.

Announces itself as `tenuto serve` does and stops when stdin is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
from pathlib import Path

import uvloop

from benchmarks.null_engine import NullEngine
from orchestrator.app import assemble, create_app
from orchestrator.cli.server import Server, server_config, settle_interpreter
from orchestrator.config import load


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--journal", type=Path, required=True)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(args.journal))


async def _serve(journal: Path) -> None:
    settings = load(host="127.0.0.1", port=0, model="none", journal=journal)
    app = create_app(settings, assemble=lambda settings: assemble(settings, engines=[NullEngine()]), listens=True)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = Server(
        server_config(app),
        on_listening=lambda: print(json.dumps({"url": url, "pid": os.getpid()}), flush=True),
        on_stopping=lambda: app.state.parts.streams.stop(),
    )
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(0)
        server.stop()

    loop.add_reader(0, stop)
    async with app.router.lifespan_context(app):
        settle_interpreter()
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    main()
