"""The one contract of all benchmarks: arguments, conditions, JSON and table.

Owns how figures are written down. Never measures anything itself.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "pydantic", "fastapi", "uvicorn", "llguidance", "transformers")


@dataclass(frozen=True, slots=True)
class Figure:
    """A named number with the goal that the project set itself: `op` is `>=`, `<=` or `==`."""

    name: str
    value: float
    op: str | None = None
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.op is None or self.goal is None:
            return None
        return {">=": self.value >= self.goal, "<=": self.value <= self.goal, "==": self.value == self.goal}[self.op]


def parser(name: str, about: str) -> argparse.ArgumentParser:
    """An argument parser with what every benchmark takes: `--json FILE --quick --seed N`."""
    out = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    out.add_argument("--json", type=Path, help="write figures, conditions and detail to this file")
    out.add_argument("--quick", action="store_true", help="the real thing, smaller: ends within 45 s on 2 cores")
    out.add_argument("--seed", type=int, default=0)
    return out


def sha256(path: Path) -> str:
    """Digest of an input file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def conditions(seed: int, quick: bool, inputs: Sequence[Path] = ()) -> dict[str, Any]:
    """Machine, versions, commit, seed, load and inputs: what a reader needs to judge a figure."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    status = ["git", "status", "--porcelain", "-uno"]
    dirty = subprocess.run(status, cwd=ROOT, capture_output=True, text=True, check=False)
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "absent"
    return {
        "machine": f"{platform.machine()} {_cpu_model()}",
        "system": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
        "versions": versions,
        "commit": git.stdout.strip() + ("+changes" if dirty.stdout.strip() else ""),
        "seed": seed,
        "quick": quick,
        "load_average": os.getloadavg()[0],
        "inputs": {path.name: sha256(path) for path in inputs},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def percentile(values: Sequence[float], q: float) -> float:
    """The `q`-quantile (0..1) by linear interpolation; `values` must not be empty."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def print_table(title: str, figures: Sequence[Figure]) -> None:
    """The figures against their goals; plain lines where `rich` is not installed, as on a bare GPU box."""
    rows = [
        (
            figure.name,
            f"{figure.value:.6g}",
            f"{figure.op} {figure.goal:g}" if figure.op else "",
            {True: "met", False: "SHORT", None: ""}[figure.met],
        )
        for figure in figures
    ]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print("\n".join([title, *("  ".join(row) for row in rows)]))
        return
    table = Table(title=title)
    for column in ("figure", "value", "goal", ""):
        table.add_column(column, justify="right" if column in ("value", "goal") else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def finish(
    name: str,
    figures: Sequence[Figure],
    *,
    args: argparse.Namespace,
    at_start: Mapping[str, Any],
    detail: Any = None,
) -> None:
    """Print the table and, if asked, write the JSON. `at_start`: `conditions()` taken before measuring."""
    print_table(
        f"{name}   seed {at_start['seed']}, load {at_start['load_average']:.2f}, {at_start['machine']}", figures
    )
    if args.json:
        document = {
            "name": name,
            "figures": {f.name: f.value for f in figures},
            "goals": {f.name: [f.op, f.goal] for f in figures if f.op},
            "conditions": dict(at_start),
            "detail": detail,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
