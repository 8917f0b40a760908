"""From a trace to what a client submits: resampled programs, scaled arrivals, calls on the wire, prompts in the book.

Lengths and durations that a server cannot know stay out of everything that is submitted.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from random import Random

from engine.config import BLOCK_TOKENS
from engine.streams import PromptBook, StreamTokens, reference
from orchestrator.simulation.trace import LLMNode, Node, ToolNode, TraceProgram
from tenuto.wire import (
    Call,
    Constant,
    EffectClass,
    FunctionCall,
    GraphExtension,
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

    A program that is drawn gets a name of its own, and with it private streams of its own.
    """
    rng = Random(f"resample {seed}")
    count = len(trace) if count is None else count
    gap_s = max(program.arrival for program in trace) / max(len(trace) - 1, 1)
    arrival, drawn = 0.0, list[TraceProgram]()
    for number in range(1, count + 1):
        chosen = rng.choice(trace)
        name = f"{chosen.program}~{number}"
        drawn.append(replace(chosen, program=name, origin=chosen.program, copy=number, arrival=arrival))
        arrival += rng.expovariate(1.0) * gap_s
    return drawn


def scaled(programs: Sequence[TraceProgram], factor: float) -> list[TraceProgram]:
    """Arrivals `factor` times as far apart."""
    return [replace(program, arrival=program.arrival * factor) for program in programs]


def is_private(stream: str, program: str) -> bool:
    """Whether a stream is the program's own: it is named after it."""
    return stream.startswith(program) and not stream[len(program) : len(program) + 1].isalnum()


@dataclass(frozen=True)
class Blueprint:
    """What all copies of a program have in common: one call a node, and how nodes wait for each other.

    `private_tokens`: of each node, tokens of its prompt and output in private streams.
    """

    nodes: tuple[Node, ...]
    calls: tuple[Call, ...]
    successors: tuple[tuple[int, ...], ...]
    waiting: tuple[int, ...]
    private_tokens: tuple[int, ...]

    @cached_property
    def place(self) -> dict[str, int]:
        """The place of a node by its call's id."""
        return {call.id: place for place, call in enumerate(self.calls)}

    @cached_property
    def outputs(self) -> dict[str, int]:
        """The true output lengths of LLM calls."""
        pairs = zip(self.calls, self.nodes, strict=True)
        return {call.id: node.output for call, node in pairs if isinstance(node, LLMNode)}

    @cached_property
    def has_waits(self) -> bool:
        return any(isinstance(node, LLMNode) and node.wait for node in self.nodes)

    @cached_property
    def extensions(self) -> tuple[tuple[GraphExtension, bytes], ...]:
        """Each call as an extension of its own, with its JSON."""
        extensions = (GraphExtension(calls=(call,)) for call in self.calls)
        return tuple((extension, extension.model_dump_json().encode()) for extension in extensions)

    def pause_s(self, call: str, wait_cap_s: float) -> float | None:
        """Seconds from the end of an LLM call to the first one that follows it, over the tools between them."""
        nodes, origin = self.nodes, self.place[call]
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


def objective(program: TraceProgram) -> Objective:
    """What the program's end is judged by."""
    deadline_s = program.deadline
    return Objective() if deadline_s is None else Objective(kind="deadline", deadline_s=deadline_s)


class Library:
    """The blueprints of a trace's programs, each made once, with the book that has their prompts.

    `durations`: of function calls, by the only argument that they have: it tells a server nothing.
    """

    def __init__(self) -> None:
        self.book = PromptBook()
        self.durations: dict[str, float] = {}
        self._blueprints: dict[str, Blueprint] = {}
        self._constants: dict[str, Message] = {}

    def blueprint(self, program: TraceProgram) -> Blueprint:
        """The program's calls."""
        origin = program.origin or program.program
        known = self._blueprints.get(origin)
        if known is None:
            known = self._blueprints[origin] = self._draw(program.nodes, origin)
        return known

    def _draw(self, nodes: tuple[Node, ...], origin: str) -> Blueprint:
        names = [wire_name(node.id if node.id[:1].isalpha() else f"_{node.id}") for node in nodes]
        if len(set(names)) < len(names):
            names = [f"n{place}" for place in range(len(names))]
        index = {node.id: place for place, node in enumerate(nodes)}
        successors: list[list[int]] = [[] for _ in nodes]
        calls: list[Call] = []
        private: list[int] = []
        for place, node in enumerate(nodes):
            for before in node.after:
                successors[index[before]].append(place)
            after = tuple(names[index[before]] for before in node.after)
            key = f"{origin}/{node.id}"
            if isinstance(node, ToolNode):
                self.durations[key] = node.duration
                calls.append(_function(node, names[place], after, key))
                private.append(0)
                continue
            mine = partial(is_private, program=origin)
            self.book.put(key, node.prompt, private=mine, out=f"{key}.out", output=node.output)
            outputs = {f"{origin}/{before}.out": names[index[before]] for before in node.after}
            calls.append(self._llm(node, names[place], after, key, origin, outputs))
            private.append(sum(piece.end - piece.start for piece in node.prompt if mine(piece.stream)) + node.output)
        return Blueprint(
            nodes, tuple(calls), tuple(map(tuple, successors)), tuple(len(n.after) for n in nodes), tuple(private)
        )

    def _llm(
        self,
        node: LLMNode,
        name: str,
        after: tuple[str, ...],
        key: str,
        origin: str,
        outputs: dict[str, str],
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
        parts: list[TextPart | VariablePart] = [
            VariablePart(variable=outputs[piece.stream]) for piece in node.prompt if piece.stream in outputs
        ]
        messages.append(Message(role="user", parts=(*parts, TextPart(text=reference(key)))))
        return LLMCall(
            id=name,
            messages=tuple(messages),
            after=after,
            stage=wire_name(node.stage) if node.stage else None,
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


_KEPT = 4
_libraries: OrderedDict[int, tuple[Sequence[TraceProgram], Library]] = OrderedDict()


def library_of(trace: Sequence[TraceProgram]) -> Library:
    """The library of a trace; those of the last few are kept, so that many runs draw its blueprints once."""
    known = _libraries.pop(id(trace), None)
    if known is None or known[0] is not trace:
        known = (trace, Library())
    _libraries[id(trace)] = known
    if len(_libraries) > _KEPT:
        _libraries.popitem(last=False)
    return known[1]


def tool_names(programs: Sequence[TraceProgram]) -> list[str]:
    """Every tool of some programs, as the wire names them."""
    nodes: list[Node] = [node for program in programs for node in program.nodes]
    return sorted({wire_name(node.name) for node in nodes if isinstance(node, ToolNode)})


def distinct_tokens(programs: Sequence[TraceProgram], library: Library) -> int:
    """At most so many tokens have to be computed if nothing is ever forgotten: of each prompt what the one before it
    in its program, with its output, does not begin with. Blocks that are cut off count whole."""
    of_origin: dict[str, int] = {}
    total = 0
    for program in programs:
        origin = program.origin or program.program
        if origin not in of_origin:
            library.blueprint(program)
            of_origin[origin] = _distinct(program, origin, library.book)
        total += of_origin[origin]
    return total


def _distinct(program: TraceProgram, origin: str, book: PromptBook) -> int:
    total = 0
    before: StreamTokens | None = None
    for node in program.llm_nodes:
        prompt = book.get(f"{origin}/{node.id}", "")
        assert prompt is not None
        total += len(prompt) - (prompt.common(before) if before is not None else 0) + node.output + 2 * BLOCK_TOKENS
        before = prompt
        before.grow(node.output)
    return total
