"""How large one program's graph may be. Each limit has a diagnostic that names it; none is ever a crash."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """Bounds of one program, over all its extensions where it says so.

    The depth of expressions is bounded because values are built by recursion; schemas because compiling one
    costs time and memory before anything has been accepted.
    """

    max_calls: int = 100_000  # over all extensions
    max_inputs: int = 100_000  # over all extensions
    max_edges_per_call: int = 20_000  # references in the prompt or the arguments, plus `after`
    max_prompt_chars: int = 4_000_000  # constant text of one call's prompt
    max_expression_depth: int = 64  # lists and objects inside each other in one argument
    max_schema_chars: int = 200_000  # one JSON Schema, as compact JSON
    max_diagnostics: int = 100  # reported at once; the last one says how many more there are
