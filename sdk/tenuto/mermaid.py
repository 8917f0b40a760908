"""A graph as a Mermaid flowchart: calls as boxes, inputs as stadiums, values as arrows. Pure text, no layout."""

from __future__ import annotations

from collections.abc import Iterator

from tenuto.wire import Call, FunctionCall, Graph, LLMCall, VariablePart, references


def mermaid(graph: Graph) -> str:
    """Flowchart source. Nodes carry the names of the graph; outputs have a thick border."""
    names = [*graph.inputs, *(call.id for call in graph.calls)]
    node = {name: f"n{index}" for index, name in enumerate(names)}
    producer = {call.variable: call.id for call in graph.calls}
    lines = ["flowchart TD"]
    lines += [f'    {node[name]}(["{name}"])' for name in graph.inputs]
    for call in graph.calls:
        opening, closing = ("[[", "]]") if isinstance(call, FunctionCall) else ("[", "]")
        lines.append(f'    {node[call.id]}{opening}"{call.id}"{closing}')
    for call in graph.calls:
        read = dict.fromkeys(producer.get(name, name) for name in _reads(call))
        lines += [f"    {node[source]} --> {node[call.id]}" for source in read if source in node]
        lines += [f"    {node[source]} -.-> {node[call.id]}" for source in call.after if source in node]
    outputs = [node[producer.get(name, name)] for name in graph.outputs if producer.get(name, name) in node]
    if outputs:
        lines += ["    classDef output stroke-width:3px", f"    class {','.join(outputs)} output"]
    return "\n".join(lines) + "\n"


def _reads(call: Call) -> Iterator[str]:
    if isinstance(call, LLMCall):
        for message in call.messages:
            yield from (part.variable for part in message.parts if isinstance(part, VariablePart))
    else:
        for argument in call.arguments.values():
            yield from (reference.variable for reference in references(argument))
