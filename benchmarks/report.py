"""`python -m benchmarks.report`: writes RESULTS.md from the stored JSON. No figure is typed by hand."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
OPS = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


def section(document: dict[str, Any]) -> list[str]:
    """Markdown lines of one benchmark: its figures against their goals, and the conditions."""
    at = document["conditions"]
    command = f"python -m benchmarks.{document['name']} --json benchmarks/results/{document['name']}.json"
    lines = [f"## {document['name']}", "", f"`{command}`", ""]
    lines += ["| figure | value | goal | |", "| --- | --- | --- | --- |"]
    for name, value in document["figures"].items():
        op, goal = document.get("goals", {}).get(name, (None, None))
        verdict = "" if op is None else ("met" if OPS[op](value, goal) else "**not reached**")
        lines.append(f"| {name} | {value:.6g} | {f'{op} {goal:g}' if op else ''} | {verdict} |")
    versions = ", ".join(f"{k} {v}" for k, v in at["versions"].items())
    lines += [
        "",
        f"{at['machine']}, {at['cores']} cores; {versions}; commit `{at['commit'][:12]}`, seed {at['seed']}, "
        f"load average {at['load_average']:.2f}{', quick run' if at['quick'] else ''}.",
        "",
    ]
    return lines


def main() -> None:
    """Rewrite RESULTS.md."""
    lines = ["# Results", "", "Written by `python -m benchmarks.report` from `benchmarks/results/*.json`.", ""]
    for path in sorted(RESULTS.glob("*.json")):
        lines += section(json.loads(path.read_text()))
    (RESULTS.parent / "RESULTS.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
