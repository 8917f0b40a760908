"""From a trace to what a client submits: resampled programs, scaled arrivals, calls on the wire, prompts in the book.

Lengths and durations that a server cannot know stay out of everything that is submitted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from engine.config import BLOCK_TOKENS
from engine.streams import PromptBook, StreamTokens, reference
from orchestrator.simulation.trace import LLMNode, Node, ToolNode, TraceProgram
from tenuto.wire import (
    Call,
    Constant,
    EffectClass,
    FunctionCall,
    JsonType,
    LLMCall,
    Message,
    Objective,
    Sampling,
    TextPart,
    VariablePart,
)

MAX_TOKENS = 65_536
"""What every call is allowed to generate: its true length is the engine's secret."""

_BAD = re.compile(r"[^A-Za-z0-9_.\-]")
_ANY = JsonType()
_SAMPLING = Sampling(max_tokens=MAX_TOKENS)


def wire_name(name: str) -> str:
    """A trace's name as the wire takes it: `bash:pytest` becomes `bash.pytest`."""
    clean = _BAD.sub(".", name)[:200]
    return clean if clean[:1].isalpha() or clean[:1] == "_" else f"_{clean}"[:200]


def resample(trace: Sequence[TraceProgram], *, seed: int, count: int | None = None) -> list[TraceProgram]:
    """`count` programs (default: as many as there are) drawn with replacement, Poisson arrivals at the trace's rate.

    A program that is drawn again gets a name of its own, and with it private streams of its own.
    """
    rng = Random(f"resample {seed}")
    count = len(trace) if count is None else count
    span_s = max(program.arrival for program in trace)
    gap_s = span_s / max(len(trace) - 1, 1)
    arrival, drawn = 0.0, list[TraceProgram]()
    for number in range(count):
        chosen = rng.choice(trace)
        drawn.append(replace(chosen, program=f"{chosen.program}~{number}", arrival=arrival))
        arrival += rng.expovariate(1.0) * gap_s
    return drawn


def scaled(programs: Sequence[TraceProgram], factor: float) -> list[TraceProgram]:
    """Arrivals `factor` times as far apart."""
    return [replace(program, arrival=program.arrival * factor) for program in programs]


def is_private(stream: str, program: str) -> bool:
    """Whether a stream is the program's own: it is named after it."""
    return stream.startswith(program) and not stream[len(program) : len(program) + 1].isalnum()


@dataclass(slots=True)
class Submitted:
    """A program ready to be submitted: one call a node, with how nodes wait for each other."""

    source: TraceProgram
    calls: list[Call]
    successors: list[list[int]]
    waiting: list[int]
    index: dict[str, int]
    private_tokens: list[int]
    """For each node: tokens of its prompt and output in private streams."""

    def pause_s(self, call: str, wait_cap_s: float) -> float | None:
        """Seconds from the end of an LLM call to the first one that follows it, over the tools between them."""
        nodes = self.source.nodes
        origin = next(place for place, made in enumerate(self.calls) if made.id == call)
        ready_s = {origin: 0.0}
        found: float | None = None
        for place in range(origin, len(nodes)):
            at_s = ready_s.get(place)
            if at_s is None:
                continue
            node = nodes[place]
            if place != origin and isinstance(node, LLMNode):
                at_s += min(node.wait, wait_cap_s)
                found = at_s if found is None else min(found, at_s)
                continue
            end_s = at_s + (node.duration if isinstance(node, ToolNode) else 0.0)
            for successor in self.successors[place]:
                ready_s[successor] = max(ready_s.get(successor, 0.0), end_s)
        return found

    @property
    def objective(self) -> Objective:
        deadline_s = self.source.deadline
        return Objective() if deadline_s is None else Objective(kind="deadline", deadline_s=deadline_s)


class Workload:
    """Makes calls of nodes. Prompts go into the book, durations into `durations`, by the names that calls carry."""

    def __init__(self, book: PromptBook, model_of: Callable[[str], str | None] = lambda program: None) -> None:
        self._book = book
        self._model_of = model_of
        self.durations: dict[str, tuple[float, bool]] = {}
        self._constants: dict[str, Message] = {}

    def prepare(self, program: TraceProgram) -> Submitted:
        """The program's calls. `forget` must follow its end."""
        origin, _, number = program.program.partition("~")
        suffix = f"~{number}" if number else ""
        names = [wire_name(node.id if node.id[:1].isalpha() else f"_{node.id}") for node in program.nodes]
        if len(set(names)) < len(names):
            names = [f"n{index}" for index in range(len(names))]
        index = {node.id: place for place, node in enumerate(program.nodes)}
        made = Submitted(program, [], [[] for _ in names], [len(node.after) for node in program.nodes], index, [])
        model = self._model_of(program.program)
        for place, node in enumerate(program.nodes):
            for before in node.after:
                made.successors[index[before]].append(place)
            after = tuple(names[index[before]] for before in node.after)
            key = f"{program.program}/{node.id}"
            if isinstance(node, ToolNode):
                self.durations[key] = (node.duration, node.failed)
                made.calls.append(_function(node, names[place], after, key))
                made.private_tokens.append(0)
                continue
            self._put(program, node, key, origin, suffix)
            made.calls.append(self._llm(node, names, index, names[place], after, key, origin, model))
            private = sum(p.end - p.start for p in node.prompt if is_private(p.stream, origin))
            made.private_tokens.append(private + node.output)
        return made

    def forget(self, program: TraceProgram) -> None:
        """The program has ended: its prompts and durations will not be asked for again."""
        for node in program.nodes:
            key = f"{program.program}/{node.id}"
            self._book.drop(key)
            self.durations.pop(key, None)

    def _put(self, program: TraceProgram, node: LLMNode, key: str, origin: str, suffix: str) -> None:
        pieces: Sequence[tuple[str, int, int]] = node.prompt
        if suffix:
            pieces = [
                (stream + suffix if is_private(stream, origin) else stream, start, end) for stream, start, end in pieces
            ]
        self._book.put(key, pieces, f"{origin}/{node.id}.out{suffix}", node.output)

    def _llm(
        self,
        node: LLMNode,
        names: list[str],
        index: dict[str, int],
        name: str,
        after: tuple[str, ...],
        key: str,
        origin: str,
        model: str | None,
    ) -> LLMCall:
        """The constant part that programs share, then the outputs it reads, then what stands for the whole prompt."""
        messages: list[Message] = []
        shared = [piece for piece in node.prompt[:2] if not is_private(piece.stream, origin)]
        if shared:
            text = "".join(f"{stream}[{start}:{end}]" for stream, start, end in shared)
            known = self._constants.get(text)
            if known is None:
                known = self._constants[text] = Message(role="system", parts=(TextPart(text=text),))
            messages.append(known)
        parts: list[TextPart | VariablePart] = []
        outputs = {f"{origin}/{before}.out": names[index[before]] for before in node.after}
        for piece in node.prompt:
            read = outputs.get(piece.stream)
            if read is not None:
                parts.append(VariablePart(variable=read))
        parts.append(TextPart(text=reference(key)))
        messages.append(Message(role="user", parts=tuple(parts)))
        return LLMCall(
            id=name,
            messages=tuple(messages),
            after=after,
            stage=wire_name(node.stage) if node.stage else None,
            model=model,
            sampling=_SAMPLING,
        )


def _function(node: ToolNode, name: str, after: tuple[str, ...], key: str) -> FunctionCall:
    return FunctionCall(
        id=name,
        tool=wire_name(node.name),
        arguments={"of": Constant(value=key)},
        type=_ANY,
        after=after,
        effect=EffectClass.READ,
        idempotent=True,
    )


def tool_names(programs: Sequence[TraceProgram]) -> list[str]:
    """Every tool of some programs, as the wire names them."""
    nodes: list[Node] = [node for program in programs for node in program.nodes]
    return sorted({wire_name(node.name) for node in nodes if isinstance(node, ToolNode)})


def distinct_tokens(programs: Sequence[TraceProgram]) -> int:
    """At most so many tokens have to be computed if nothing is ever forgotten: of each prompt what the one before it
    in its program, with its output, does not begin with. Blocks that are cut off count whole."""
    total = 0
    book = PromptBook()
    for program in programs:
        before: StreamTokens | None = None
        for node in program.llm_nodes:
            book.put("", node.prompt, f"{program.program}/{node.id}.out", 0)
            prompt = book.get("")
            assert prompt is not None
            shared = prompt.common(before) if before is not None else 0
            total += len(prompt) - shared + node.output + 2 * BLOCK_TOKENS
            before = prompt
            before.grow(node.output)
    return total
