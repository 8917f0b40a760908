"""`tenuto top`: what a running server does now, on the terminal: programs, queues, KV under lease, tools."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from pydantic import BaseModel

from orchestrator.cli.options import fail

if TYPE_CHECKING:
    import httpx
    from rich.console import Group
    from rich.table import Table

    from orchestrator.api.views import LeaseList
    from tenuto.wire import EngineList, Page, ProgramSummary, ToolList

Model = TypeVar("Model", bound=BaseModel)

DEFAULT_URL = "http://127.0.0.1:7878"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a server tells of itself at one moment. `queued`: calls held back, by engine."""

    url: str
    running: Page[ProgramSummary]
    recent: Page[ProgramSummary]
    engines: EngineList
    leases: LeaseList
    tools: ToolList
    queued: dict[str, int]


def top(
    url: Annotated[
        str | None, typer.Option("--url", envvar="TENUTO_URL", help="The server. Default: the one on this machine.")
    ] = None,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and leave.")] = False,
    rows: Annotated[int, typer.Option("--rows", min=1, max=100, help="Programs shown.")] = 20,
) -> None:
    """Watch a server: programs, queues, KV memory with leases, tools. Ctrl-C leaves."""
    import httpx
    from pydantic import ValidationError
    from rich.console import Console
    from rich.live import Live

    key = os.environ.get("TENUTO_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    console = Console()
    try:
        with httpx.Client(base_url=url or DEFAULT_URL, headers=headers, timeout=10.0) as client:
            if once:
                console.print(frame(look(client, rows), rows))
                return
            with Live(frame(look(client, rows), rows), console=console, screen=True, auto_refresh=False) as live:
                pause = threading.Event()
                while not pause.wait(every):
                    live.update(frame(look(client, rows), rows), refresh=True)
    except KeyboardInterrupt:
        return
    except httpx.HTTPStatusError as fault:
        hint = ": put a key into TENUTO_API_KEY" if fault.response.status_code == 401 else ""
        fail(f"{fault.request.url} was answered with {fault.response.status_code}{hint}", code=1)
    except httpx.HTTPError as fault:
        fail(f"no server answers at {url or DEFAULT_URL}: {fault}", code=1)
    except ValidationError as fault:
        fail(f"{url or DEFAULT_URL} is no server of this version: {fault}", code=1)


def look(client: httpx.Client, rows: int) -> Snapshot:
    """Ask the server. Raises httpx.HTTPError, pydantic.ValidationError."""
    from orchestrator.api.views import LeaseList
    from tenuto.wire import EngineList, Page, ProgramSummary, ToolList

    def read(path: str, model: type[Model]) -> Model:
        answer = client.get(path)
        answer.raise_for_status()
        return model.model_validate_json(answer.content)

    metrics = client.get("/metrics")
    metrics.raise_for_status()
    return Snapshot(
        url=str(client.base_url),
        running=read("/v1/programs?status=running&limit=100", Page[ProgramSummary]),
        recent=read(f"/v1/programs?limit={rows}", Page[ProgramSummary]),
        engines=read("/v1/engines", EngineList),
        leases=read("/v1/leases", LeaseList),
        tools=read("/v1/tools", ToolList),
        queued=_queued(metrics.text),
    )


def frame(snapshot: Snapshot, rows: int) -> Group:
    """The picture of one moment."""
    from rich.console import Group

    more = "+" if snapshot.running.has_more else ""
    head = f"[b]tenuto[/b] {snapshot.url}   {len(snapshot.running.data)}{more} programs running"
    return Group(head, _programs(snapshot, rows), _engines(snapshot), *_leases(snapshot), *_tools(snapshot))


def _table(title: str, *columns: str) -> Table:
    """A table; columns that end in # hold numbers."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", expand=True)
    for column in columns:
        table.add_column(column.rstrip("#"), justify="right" if column.endswith("#") else "left", overflow="ellipsis")
    return table


def _programs(snapshot: Snapshot, rows: int) -> Table:
    table = _table("Programs", "program", "workflow", "status", "seconds#", "calls#")
    live = {one.id for one in snapshot.running.data}
    shown = [*snapshot.running.data, *(one for one in snapshot.recent.data if one.id not in live)][:rows]
    for one in shown:
        colour = {"running": "cyan", "succeeded": "green"}.get(one.status.value, "red")
        status = f"[{colour}]{one.status.value}[/]"
        table.add_row(one.id[-12:], one.workflow, status, f"{one.seconds:.1f}", f"{one.calls_ended}/{one.calls}")
    return table


def _engines(snapshot: Snapshot) -> Table:
    table = _table("Engines", "engine", "model", "status", "queued#", "device KV#", "host KV#", "price#")
    books = {one.engine: one for one in snapshot.leases.data}
    for engine in snapshot.engines.data:
        room, kept = engine.capabilities, books.get(engine.name)
        held = kept.tokens if kept is not None else {}
        table.add_row(
            engine.name,
            engine.model or "-",
            engine.status + (f": {engine.reason}" if engine.reason else ""),
            str(snapshot.queued.get(engine.name, 0)),
            _of(held.get("device", 0), room.kv_tokens if room is not None else 0),
            _of(held.get("host", 0), room.host_kv_tokens if room is not None else 0),
            f"{kept.price:.3g}" if kept is not None else "-",
        )
    return table


def _of(held: int, room: int) -> str:
    """Tokens under lease, of all."""
    return f"{held:,} / {room:,} leased" if room else f"{held:,} leased"


def _leases(snapshot: Snapshot) -> list[Table]:
    tables = []
    for books in snapshot.leases.data:
        ended = ", ".join(f"{how} {count}" for how, count in books.ended.items() if count) or "none"
        table = _table(f"Leases of {books.engine} ({books.rule}); ended: {ended}", "program", "call", "tier", "tokens#")
        table.add_column("ends in", justify="right")
        for lease in sorted(books.leases, key=lambda lease: -lease.tokens)[:10]:
            ends = "its call is back" if lease.ends_in_s is None else f"{lease.ends_in_s:.1f} s"
            table.add_row(lease.program[-12:], lease.call, lease.tier, f"{lease.tokens:,}", ends)
        tables.append(table)
    return tables


def _tools(snapshot: Snapshot) -> list[Table]:
    if not snapshot.tools.data:
        return []
    table = _table("Tools", "tool", "toolset", "effect", "workers#")
    for one in snapshot.tools.data[:10]:
        table.add_row(one.tool.name, one.toolset, one.tool.effect.value, str(one.workers))
    return [table]


def _queued(metrics: str) -> dict[str, int]:
    """Calls held back, by engine, from the Prometheus text."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, int] = {}
    for family in text_string_to_metric_families(metrics):
        if family.name == "tenuto_queue_calls":
            for sample in family.samples:
                engine = next((value for name, value in sample.labels.items() if name.endswith("engine")), "")
                found[engine] = int(sample.value)
    return found
