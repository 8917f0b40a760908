"""`tenuto cache …`: look after the semantic cache of a running server. Everything goes through its HTTP API."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import fail, refused

if TYPE_CHECKING:
    from tenuto import Client
    from tenuto.wire import CacheStatsView, CategoryStatsView

app = typer.Typer(help="Look after the semantic cache of a running server.", no_args_is_help=True, add_completion=False)

Url = Annotated[str | None, typer.Option("--url", help="The server. Default: TENUTO_URL, or 127.0.0.1:7878.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
_SHOWN_CHARS = 60


@app.command("stats")
def stats(url: Url = None, as_json: AsJson = False) -> None:
    """Hits, false hits, thresholds and savings by category."""
    with _client(url) as client:
        found = client.cache.stats()
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    _table(found)


@app.command("explain")
def explain(
    program: Annotated[str, typer.Argument(help="A program's id.")],
    call: Annotated[str, typer.Argument(help="One of its LLM calls.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Why a call would or would not be answered now."""
    with _client(url) as client:
        found = client.cache.explain(program, call)
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    threshold = "" if found.threshold is None else f", threshold {found.threshold:.3f}"
    declared = "declared" if found.declared else "learned"
    print(f"{found.outcome}\ncategory {found.category} ({declared}){threshold}, {found.rows} entries in the partition")
    for near in found.candidates:
        print(f"  {near.similarity:.3f}  {_short(near.question)}  [{near.verdict}]")
    for partition, parts in found.elsewhere.items():
        print(f"  partition {partition[:8]} differs in: {', '.join(parts)}")


@app.command("tune")
def tune(
    labels: Annotated[Path, typer.Option("--labels", help='JSON lines: {"category", "a", "b", "same"}.')],
    url: Url = None,
) -> None:
    """Calibrate the thresholds from labelled pairs of questions."""
    lines = _read(labels)
    with _client(url) as client:
        before = {c.category: c for c in client.cache.stats().categories}
        taught = client.cache.tune(lines)
        after = client.cache.stats().categories
    print(f"{taught} of {len(lines)} pairs taught something")
    for category in after:
        if category.labels != before[category.category].labels:
            print(f"  {category.category}: {_threshold(before[category.category])} -> {_threshold(category)}")


@app.command("report")
def report(
    program: Annotated[str, typer.Argument(help="The program that got a wrong answer.")],
    call: Annotated[str, typer.Argument(help="Its call.")],
    reason: Annotated[str, typer.Option(help="What is wrong with it.")] = "",
    url: Url = None,
) -> None:
    """Put the answer that a call got into quarantine."""
    with _client(url) as client:
        print(f"entry {client.cache.report(program, call, reason=reason)} is served no more")


@app.command("bump")
def bump(
    tag: Annotated[str, typer.Argument(help="What has changed: a table, a document, a tool.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much would go.")] = False,
    url: Url = None,
) -> None:
    """Serve nothing any more that depends on a tag."""
    with _client(url) as client:
        entries = client.cache.bump(tag, dry_run=dry_run)
    print(f"{entries} entries {'would go' if dry_run else 'are gone'}")


@app.command("flush")
def flush(
    category: Annotated[str | None, typer.Option(help="Only this category.")] = None,
    confirm: Annotated[str | None, typer.Option(help="The phrase that a first run prints.")] = None,
    url: Url = None,
) -> None:
    """Delete all of the tenant's answers, or those of a category."""
    with _client(url) as client:
        plan = client.cache.flush(category=category, confirm=confirm)
    if plan.done:
        print(f"{plan.entries} entries are gone")
    else:
        print(f"{plan.entries} entries would go; to delete them, repeat with --confirm {json.dumps(plan.confirm)}")


@app.command("export")
def export(file: Annotated[Path, typer.Argument(help="Where the lines go.")], url: Url = None) -> None:
    """Write the tenant's answers to a file, one JSON line each."""
    with _client(url) as client:
        lines = client.cache.export()
    try:
        file.write_text("".join(line + "\n" for line in lines))
    except OSError as fault:
        fail(f"{file}: {fault.strerror}", code=1)
    print(f"{len(lines)} entries")


@app.command("import")
def import_(file: Annotated[Path, typer.Argument(help="What an export wrote.")], url: Url = None) -> None:
    """Take in what an export wrote."""
    lines = _read(file)
    with _client(url) as client:
        taken = client.cache.import_(lines)
    print(f"{taken} of {len(lines)} entries came")


@contextmanager
def _client(url: str | None) -> Iterator[Client]:
    """A client; what it or the server refuses ends the command, in a line."""
    from pydantic import ValidationError

    from tenuto import Client, TenutoError

    try:
        with Client(url, api_key=os.environ.get("TENUTO_API_KEY"), retries=0) as client:
            yield client
    except ValidationError as fault:
        fail(refused(fault))
    except TenutoError as fault:
        fail(str(fault), code=1)


def _read(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as fault:
        fail(f"{file}: {fault}")


def _table(found: CacheStatsView) -> None:
    from rich.console import Console
    from rich.table import Table

    semantic = "" if found.semantic else f"; equal calls only: {found.why_not_semantic}"
    table = Table(title=f"{found.entries} entries, {found.bytes:,} bytes, load {found.load:.2f}{semantic}")
    table.add_column("category", min_width=max(len(row.category) for row in found.categories))
    for column in ("lookups", "hits", "e/s/f", "false", "threshold", "saved", "tokens"):
        table.add_column(column, justify="right")
    for row in found.categories:
        table.add_row(*_cells(row))
    Console().print(table)
    print("e/s/f: answered by an equal call, a near question, an equal call under way; *: too few labels yet")


def _cells(row: CategoryStatsView) -> Iterable[str]:
    low, high = row.false_share
    false = f"{row.false_hits}/{row.judged_hits} ({low:.1%}-{high:.1%})" if row.judged_hits else "-"
    tiers = f"{row.exact_hits}/{row.semantic_hits}/{row.flight_hits}"
    yield from (row.category, str(row.lookups), f"{row.hit_rate:.1%}", tiers)
    yield from (false, _threshold(row), f"{row.saved_s:.1f} s", str(row.saved_tokens))


def _threshold(row: CategoryStatsView) -> str:
    shown = f"{row.threshold:.3f}" if row.threshold <= 1 else "never"
    return f"{shown}*" if row.from_defaults else shown


def _short(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
