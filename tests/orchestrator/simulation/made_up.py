"""Made-up programs of other shapes than agents: chains, map-reduce and chat. Deterministic in the seed."""

from __future__ import annotations

from random import Random

from orchestrator.simulation.trace import LLMNode, Node, Piece, TraceProgram


def chains(count: int, *, seed: int = 0, length: int = 10, chunk: int = 512, gap_s: float = 1.0) -> list[TraceProgram]:
    """Declared chains: each call reads a chunk of a document and the output before it."""
    rng = Random(f"chains {seed}")
    programs: list[TraceProgram] = []
    arrival = 0.0
    for number in range(count):
        name = f"chain-{number}"
        nodes: list[Node] = []
        for step in range(length):
            prompt = [Piece("chain:template", 0, 100), Piece(f"{name}/doc", step * chunk, (step + 1) * chunk)]
            if step:
                before = nodes[-1]
                assert isinstance(before, LLMNode)
                prompt.append(Piece(f"{name}/{step - 1}.out", 0, before.output))
            after = (str(step - 1),) if step else ()
            nodes.append(LLMNode(str(step), after, tuple(prompt), rng.randint(20, 120), "refine"))
        programs.append(TraceProgram(name, "chain", arrival, tuple(nodes)))
        arrival += rng.expovariate(1 / gap_s)
    return programs


def map_reduces(count: int, *, seed: int = 0, maps: int = 8, gap_s: float = 1.0) -> list[TraceProgram]:
    """Declared map-reduce: `maps` calls over chunks of a document, and one that reads all their outputs."""
    rng = Random(f"map-reduce {seed}")
    programs: list[TraceProgram] = []
    arrival = 0.0
    for number in range(count):
        name = f"mapreduce-{number}"
        nodes: list[Node] = []
        reads = [Piece("reduce:template", 0, 60)]
        for part in range(maps):
            chunk = rng.randint(500, 2000)
            prompt = (Piece("map:template", 0, 120), Piece(f"{name}/part{part}", 0, chunk))
            output = rng.randint(30, 150)
            nodes.append(LLMNode(f"m{part}", (), prompt, output, "map"))
            reads.append(Piece(f"{name}/m{part}.out", 0, output))
        after = tuple(node.id for node in nodes)
        nodes.append(LLMNode("r", after, tuple(reads), rng.randint(100, 300), "reduce"))
        programs.append(TraceProgram(name, "map-reduce", arrival, tuple(nodes)))
        arrival += rng.expovariate(1 / gap_s)
    return programs


def chats(count: int, *, seed: int = 0, gap_s: float = 0.2) -> list[TraceProgram]:
    """Single calls with a deadline of a second and a twentieth of one for each token."""
    rng = Random(f"chats {seed}")
    programs: list[TraceProgram] = []
    arrival = 0.0
    for number in range(count):
        name = f"chat-{number}"
        output = rng.randint(20, 500)
        prompt = (Piece(f"chat:template{rng.randrange(3)}", 0, 600), Piece(name, 0, rng.randint(20, 800)))
        node = LLMNode("0", (), prompt, output, "reply")
        programs.append(TraceProgram(name, "chat", arrival, (node,), deadline=1 + output / 20))
        arrival += rng.expovariate(1 / gap_s)
    return programs
