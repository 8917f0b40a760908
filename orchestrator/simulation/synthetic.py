"""Made-up programs for trying things out: agents with tool pauses. All numbers are ours.

Deterministic in the seed. What is real comes from traces.
"""

from __future__ import annotations

from random import Random

from orchestrator.simulation.trace import LLMNode, Node, Piece, ToolNode, TraceProgram


def agents(
    count: int,
    *,
    seed: int = 0,
    turns: tuple[int, int] = (4, 16),
    system: int = 2000,
    grows_by: tuple[int, int] = (200, 2500),
    outputs: tuple[int, int] = (20, 400),
    pause_s: float = 2.0,
    gap_s: float = 1.0,
) -> list[TraceProgram]:
    """Agent loops: each turn's prompt is the last one with its output and a tool's result; pauses are log-normal."""
    rng = Random(f"agents {seed}")
    programs: list[TraceProgram] = []
    arrival = 0.0
    for number in range(count):
        name = f"agent-{number}"
        prompt = [Piece("agent:system", 0, system)]
        length = 0
        nodes: list[Node] = []
        for turn in range(rng.randint(*turns)):
            grown = rng.randint(*grows_by)
            prompt.append(Piece(name, length, length + grown))
            length += grown
            output = rng.randint(*outputs)
            after = (f"{turn - 1}t",) if turn else ()
            nodes.append(LLMNode(str(turn), after, tuple(prompt), output, "turn"))
            prompt.append(Piece(f"{name}/{turn}.out", 0, output))
            tool = rng.choice(("search", "read", "shell"))
            nodes.append(ToolNode(f"{turn}t", (str(turn),), tool, pause_s * rng.lognormvariate(-0.5, 1.0)))
        nodes.pop()  # the last answer calls no tool
        programs.append(TraceProgram(name, "agent", arrival, tuple(nodes), environment="made-up", online=True))
        arrival += rng.expovariate(1 / gap_s)
    return programs
