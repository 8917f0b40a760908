"""`tenuto doctor`: does what a server needs work here? Looks, and leaves everything as it was."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Config, Journal, Model
from orchestrator.cli.version import installed

if TYPE_CHECKING:
    from orchestrator.config import Settings

PACKAGES = ("tenuto", "pydantic", "fastapi", "uvicorn", "httpx", "torch", "tokenizers", "safetensors", "llguidance")


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    detail: str


def doctor(
    model: Model = None,
    journal: Journal = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a finding.")] = False,
) -> None:
    """Check the environment, the settings, the device, the model and the journal. Exit code 1 if anything fails."""
    from orchestrator.config import ConfigError, load, misspelt_variables

    findings = list(_environment())
    findings += [Finding("variables", Verdict.WARNING, line) for line in misspelt_variables(os.environ)]
    try:
        settings = load(config, model=model, journal=journal)
    except ConfigError as fault:
        findings += [Finding("settings", Verdict.FAILED, line) for line in str(fault).splitlines()]
    else:
        findings.append(Finding("settings", Verdict.OK, f"model {settings.model}, policy {settings.policy}"))
        findings.append(_device())
        findings.append(asyncio.run(_model(settings)))
        findings.append(asyncio.run(_journal(settings)))
        findings.append(_cache(settings))
    for finding in findings:
        print(json.dumps(asdict(finding)) if as_json else f"{finding.verdict:8} {finding.what:10} {finding.detail}")
    if any(finding.verdict is Verdict.FAILED for finding in findings):
        raise typer.Exit(1)


def _environment() -> Iterator[Finding]:
    fits = sys.version_info >= (3, 11)
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield Finding("python", Verdict.OK if fits else Verdict.FAILED, detail)
    versions = {name: installed(name) for name in PACKAGES}
    missing = any(version == "not installed" for version in versions.values())
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding("packages", Verdict.FAILED if missing else Verdict.OK, listed)


def _device() -> Finding:
    try:
        import torch
    except ImportError as fault:
        return Finding("device", Verdict.FAILED, f"torch cannot be imported: {fault}. Install torch")
    if torch.cuda.is_available():
        return Finding("device", Verdict.OK, f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}")
    return Finding("device", Verdict.OK, f"CPU, {torch.get_num_threads()} threads; no GPU that torch can use")


async def _model(settings: Settings) -> Finding:
    from engine.protocol import EngineError
    from orchestrator.clock import LoopClock
    from orchestrator.config import ConfigError
    from orchestrator.engines.local import local_engines

    clock = LoopClock()
    began_s = clock.now()
    try:
        engines = local_engines(settings, clock=clock)
        if not engines:
            return Finding("model", Verdict.WARNING, "none is configured: LLM calls need workers that host models")
        engine = engines[0]
        engine.start()
        try:
            info = (await engine.ready()).model
        finally:
            await engine.close()
    except (ConfigError, EngineError) as fault:
        return Finding("model", Verdict.FAILED, str(fault))
    took_s = clock.now() - began_s
    detail = f"{info.name} loaded in {took_s:.1f} s, {info.context_tokens} tokens of context"
    return Finding("model", Verdict.OK, detail)


async def _journal(settings: Settings) -> Finding:
    from orchestrator.clock import LoopClock
    from orchestrator.errors import JournalUnavailable
    from orchestrator.journal import SqliteJournal

    if settings.journal is None:
        return Finding("journal", Verdict.WARNING, "in memory: programs end with the server; set journal to keep them")
    existed = settings.journal.exists()
    journal = SqliteJournal(settings.journal, clock=LoopClock())
    try:
        await journal.open(lambda fault: None)
    except JournalUnavailable as fault:
        return Finding("journal", Verdict.FAILED, fault.detail)
    await journal.close()
    if not existed:
        settings.journal.unlink(missing_ok=True)
    return Finding("journal", Verdict.OK, f"{settings.journal} can be written")


def _cache(settings: Settings) -> Finding:
    options = settings.semantic_cache
    if options.mode == "off":
        return Finding("cache", Verdict.OK, "off")
    from pathlib import Path

    from orchestrator.caching.options import NO_EMBEDDER
    from semantic_cache import InvalidPolicy, ModelFilesError
    from semantic_cache.embedders.export import find_source

    try:
        options.policies()
    except InvalidPolicy as fault:
        return Finding("cache", Verdict.FAILED, f"{fault}. Correct it under [semantic_cache]")
    source = options.embedder
    if options.mode == "exact" or source == NO_EMBEDDER:
        return Finding("cache", Verdict.OK, "equal calls only")
    if source is not None and not Path(source).expanduser().is_dir():
        return Finding("cache", Verdict.OK, f"embedder {source} (a hub id or an endpoint: not looked at)")
    try:
        find_source(source)
    except ModelFilesError as fault:
        return Finding("cache", Verdict.WARNING, f"equal calls only: {fault}")
    return Finding("cache", Verdict.OK, "equal calls and near questions")
