"""OpenTelemetry GenAI spans as OTLP JSON: one's own traffic. A trace is a program, its generations and tool runs calls.

Spans tell lengths and times, not contents. Assumed: a call comes after the calls that ended before it began and that no
other such call came after; calls of one parent span continue one conversation, each prompt beginning with the one
before and its output as far as its length allows, or as `gen_ai.usage.cache_read.input_tokens` says.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.simulation.fields import Fields, bounded, whole
from orchestrator.simulation.lines import TraceError, lines
from orchestrator.simulation.trace import LLMNode, Node, Piece, ToolNode, TraceProgram
from orchestrator.telemetry import names

_GENERATIONS = frozenset({"chat", "text_completion", "generate_content"})


@dataclass(frozen=True, slots=True)
class _Span:
    """A generation or a tool run. `place`: where its fields are, for messages."""

    id: str
    parent: str
    start_s: float
    end_s: float
    attributes: Mapping[str, Any]
    place: str

    def count(self, name: str) -> int:
        """Tokens; 0 if it does not say how many. Raises TraceError."""
        value = self.attributes.get(name)
        return 0 if value is None else whole(value, 0, f"{self.place}{name}")


def read_otel(path: Path) -> list[TraceProgram]:
    """Raises TraceError, with line and field."""
    traces: dict[str, list[_Span]] = defaultdict(list)
    workflows: dict[str, str] = {}
    for where, document in _documents(path):
        for trace, operation, span in _spans(document, where):
            if operation in _GENERATIONS or operation == names.EXECUTE_TOOL:
                traces[trace].append(span)
            name = span.attributes.get(names.WORKFLOW_NAME) or span.attributes.get(names.AGENT_NAME)
            if name and trace not in workflows:
                workflows[trace] = str(name)
    if not traces:
        raise TraceError(f"{path.name}: has no spans of generations or tools (gen_ai.operation.name)")
    listed = [span for spans in traces.values() for span in spans]
    start_s = min(span.start_s for span in listed)
    for span in listed:
        bounded(span.start_s - start_s, f"{span.place}startTimeUnixNano: after the first span")
        bounded(span.end_s - span.start_s, f"{span.place}endTimeUnixNano: after its start")
    return [
        _program(trace, workflows.get(trace, "otel"), sorted(spans, key=lambda s: (s.start_s, s.id)), start_s)
        for trace, spans in traces.items()
    ]


def _documents(path: Path) -> Iterator[tuple[str, Any]]:
    """Each line is a document, as the collector's file exporter writes them; or the file is one."""
    rows = list(lines(path))
    try:
        for number, line in rows:
            yield f"{path.name}:{number}", json.loads(line)
    except (ValueError, RecursionError) as fault:
        if number != rows[0][0]:
            raise TraceError(f"{path.name}:{number}: is no JSON: {fault}") from None
        try:
            yield path.name, json.loads("".join(line for _, line in rows))
        except (ValueError, RecursionError) as again:
            raise TraceError(f"{path.name}: is no JSON: {again}") from None


def _spans(document: Any, where: str) -> Iterator[tuple[str, str, _Span]]:
    """Every span with its trace and its GenAI operation."""
    documents = document if isinstance(document, list) else [document]
    try:
        for part in documents:
            for r, resource in enumerate(part.get("resourceSpans", ())):
                for s, scope in enumerate(resource.get("scopeSpans", ())):
                    for n, span in enumerate(scope.get("spans", ())):
                        attributes = _attributes(span.get("attributes", ()))
                        prefix = f"resourceSpans[{r}].scopeSpans[{s}].spans[{n}]."
                        fields = Fields(span, where, prefix)
                        yield (
                            fields.get("traceId", str),
                            str(attributes.get(names.OPERATION, "")),
                            _Span(
                                fields.get("spanId", str),
                                fields.optional("parentSpanId", str) or "",
                                fields.whole("startTimeUnixNano", 0) / 1e9,
                                fields.whole("endTimeUnixNano", 0) / 1e9,
                                attributes,
                                f"{where}: {prefix}",
                            ),
                        )
    except TraceError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise TraceError(f"{where}: is no OTLP JSON: {type(fault).__name__}: {fault}") from None


def _attributes(listed: Iterable[Any]) -> dict[str, Any]:
    return {item["key"]: next(iter(item["value"].values()), None) for item in listed}


def _program(trace: str, workflow: str, spans: list[_Span], start_s: float) -> TraceProgram:
    nodes: list[Node] = []
    done: list[tuple[_Span, frozenset[str]]] = []  # with all that comes before each
    prompts: dict[str, tuple[Piece, ...]] = {}
    for span in spans:
        ended = [(other, past) for other, past in done if other.end_s <= span.start_s]
        older = frozenset().union(*(past for _, past in ended)) if ended else frozenset()
        after = tuple(other.id for other, _ in ended if other.id not in older)
        done.append((span, older | {other.id for other, _ in ended}))
        if span.attributes.get(names.OPERATION) == names.EXECUTE_TOOL:
            name = str(span.attributes.get(names.TOOL_NAME) or "tool")
            nodes.append(ToolNode(span.id, after, name, span.end_s - span.start_s, names.ERROR_TYPE in span.attributes))
            continue
        since_s = max((other.end_s for other, _ in ended), default=spans[0].start_s)
        prompt = _prompt(trace, span, prompts.get(span.parent, ()))
        output = max(span.count(names.OUTPUT_TOKENS), 1)
        prompts[span.parent] = (*prompt, Piece(f"{trace}/{span.id}.out", 0, output))
        stage, model = str(span.attributes.get(names.STAGE) or ""), str(span.attributes.get(names.REQUEST_MODEL) or "")
        nodes.append(LLMNode(span.id, after, prompt, output, stage, model, wait=max(span.start_s - since_s, 0.0)))
    return TraceProgram(trace, workflow, spans[0].start_s - start_s, tuple(nodes), online=True)


def _prompt(trace: str, span: _Span, before: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """What the conversation had so far, as much as was read from a cache or fits, then what is new."""
    tokens = max(span.count(names.INPUT_TOKENS), 1)
    known = sum(piece.end - piece.start for piece in before)
    shared = min(span.count(names.CACHE_READ_TOKENS) or known, known, tokens)
    pieces: list[Piece] = []
    left = shared
    for piece in before:
        if left <= 0:
            break
        pieces.append(Piece(piece.stream, piece.start, min(piece.end, piece.start + left)))
        left -= piece.end - piece.start
    if tokens > shared:
        pieces.append(Piece(f"{trace}/{span.id}.in", 0, tokens - shared))
    return tuple(pieces)
