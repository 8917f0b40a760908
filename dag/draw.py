"""A program graph as Mermaid text, for documentation, terminals and the dashboard. Pure; never renders."""

from __future__ import annotations

from dag.graph import CallState, ProgramGraph
from tenuto.wire import LLMCall

_STYLES = {
    CallState.WAITING: "fill:#f4f4f4,stroke:#999",
    CallState.READY: "fill:#fff3cd,stroke:#b8860b",
    CallState.ENDED: "fill:#d4edda,stroke:#2e7d32",
    CallState.FAILED: "fill:#f8d7da,stroke:#b71c1c",
    CallState.SKIPPED: "fill:#e2e3e5,stroke:#999,stroke-dasharray:4",
}


def mermaid(graph: ProgramGraph) -> str:
    """A Mermaid flowchart: inputs as parallelograms, LLM calls round, function calls square, outputs as flags.

    Solid arrows carry a variable, dotted ones are `after`. The colour is the call's state.
    """
    lines = ["flowchart TD"]
    variables = {name: f"v{index}" for index, name in enumerate(graph.variables) if graph.producer(name) is None}
    calls = {name: f"c{index}" for index, name in enumerate(graph.calls)}
    lines.extend(f"    {key}[/{_label(name)}/]" for name, key in variables.items())
    for name, call in graph.calls.items():
        title = name if call.stage in (None, name) else f"{name}<br/>{call.stage}"
        opening, closing = ("(", ")") if isinstance(call, LLMCall) else ("[", "]")
        lines.append(f"    {calls[name]}{opening}{_label(title)}{closing}:::{graph.state(name)}")
    carried: set[tuple[str, str]] = set()
    for variable in graph.variables:
        producer = graph.producer(variable)
        source = variables[variable] if producer is None else calls[producer]
        named = "" if producer in (None, variable) else f"|{_label(variable)}|"
        for consumer in graph.consumers(variable):
            lines.append(f"    {source} -->{named} {calls[consumer]}")
            carried.add((source, calls[consumer]))
    for name in graph.calls:
        for before in graph.predecessors(name):
            if (calls[before], calls[name]) not in carried:
                lines.append(f"    {calls[before]} -.-> {calls[name]}")
    for index, output in enumerate(graph.outputs):
        producer = graph.producer(output)
        lines.append(f"    o{index}>{_label(output)}]")
        lines.append(f"    {variables[output] if producer is None else calls[producer]} --> o{index}")
    lines.extend(f"    classDef {state} {style}" for state, style in _STYLES.items())
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return f'"{text}"'  # names hold no character that Mermaid would read
