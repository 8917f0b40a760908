"""The command line, `tenuto`: one module a command, registered here.

Never imports the server or torch at the top: `tenuto --help` must answer at once.
"""

from __future__ import annotations

import typer

from orchestrator.cli import bench, cache, demo, doctor, key, publish, run, serve, simulate, top, trace, version

app = typer.Typer(
    name="tenuto",
    help="An orchestrator for LLM programs: schedules whole workflows, holds their KV cache through tool pauses.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("run")(run.run)
app.command("publish")(publish.publish)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("simulate")(simulate.simulate)
app.command("bench")(bench.bench)
app.command("key")(key.key)
app.command("top")(top.top)
app.command("trace")(trace.trace)
app.add_typer(cache.app, name="cache")
app.command("version")(version.version)


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    app()
