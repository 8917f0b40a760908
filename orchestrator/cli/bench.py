"""`tenuto bench`: measure an engine on this machine, for the simulator."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Model, check_output, fail, memory

if TYPE_CHECKING:
    from engine.config import EngineConfig
    from engine.fit import Fit


def bench(
    fit: Annotated[bool, typer.Option("--fit", help="Measure the engine's steps and fit a profile to them.")] = False,
    model: Model = None,
    out: Annotated[Path, typer.Option("--out", help="Where the profile goes.")] = Path("engine-profile.json"),
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, …")] = "cpu",
    token_budget: Annotated[int, typer.Option("--token-budget", min=32, help="Most tokens in one step.")] = 1024,
    max_running: Annotated[int, typer.Option("--max-running", min=1, help="Most sequences in one step.")] = 64,
    kv_gb: Annotated[float | None, typer.Option("--kv-gb", min=0, help="Memory for KV.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Everything is measured so often.")] = 5,
) -> None:
    """Measure an engine through its protocol and write a profile that `tenuto simulate --engine FILE` takes."""
    from engine.config import EngineConfig
    from engine.costs import save
    from engine.protocol import ModelLoadError
    from orchestrator.config import ConfigError
    from orchestrator.engines.local import model_source

    if not fit:
        fail("say what to measure: --fit")
    check_output(out, "--out")
    kv_bytes = memory(kv_gb, "--kv-gb")
    try:
        source = model_source(model or "bundled")
        if source is None:
            fail("--model none: there is nothing to measure")
        config = EngineConfig(source, device=device, token_budget=token_budget, max_running=max_running)
        if kv_bytes is not None:
            config = replace(config, kv_bytes=kv_bytes)
        found = asyncio.run(_fit(config, Path(source).name, rounds))
    except (ConfigError, ModelLoadError, ValueError) as fault:
        fail(str(fault))
    save(found.profile, out)
    profile = found.profile
    costs = (
        f"a step {profile.step_s * 1e3:.3g} ms",
        f"a token {profile.token_s * 1e6:.3g} us",
        f"more than one {profile.matrix_s * 1e3:.3g} ms",
        f"a piece of a prompt {profile.piece_s * 1e3:.3g} ms",
        f"prompt attention {profile.pair_s * 1e9:.3g} ns a pair",
        f"KV {profile.read_s * 1e9:.3g} ns a token read",
        f"a call {profile.call_s * 1e3:.3g} ms",
    )
    print(f"{out}: {', '.join(costs)}; the samples differ from it by {found.error:.1%}")


async def _fit(config: EngineConfig, name: str, rounds: int) -> Fit:
    from rich.console import Console
    from rich.progress import Progress

    from engine.client import EngineProcess
    from engine.clock import SystemClock
    from engine.fit import fit, measure

    async with await EngineProcess.start(config) as engine:
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("measuring", total=rounds)
            samples = await measure(
                engine, SystemClock(), budget=config.token_budget, rounds=rounds, done=lambda: bar.advance(task)
            )
        return fit(samples, engine, name=name, budget=config.token_budget, max_running=config.max_running)
