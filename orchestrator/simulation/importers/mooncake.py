"""Mooncake traces (kvcache-ai/Mooncake, FAST'25): one request a line, prompts as hashes of 512-token blocks.

A request is a program of one call. Its blocks are streams named by their hashes, so requests share what the trace says;
a block's hash covers its prefix too. Outputs are never part of later prompts: the format does not tell which blocks
they became.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.simulation.fields import parsed, whole
from orchestrator.simulation.lines import TraceError, lines
from orchestrator.simulation.trace import LLMNode, Piece, TraceProgram

_BLOCK = 512


def read_mooncake(path: Path) -> list[TraceProgram]:
    """Raises TraceError, with line and field."""
    programs: list[TraceProgram] = []
    for number, line in lines(path):
        where = f"{path.name}:{number}"
        request = parsed(line, where)
        at_s = request.seconds("timestamp", unit=0.001)
        tokens, output = request.whole("input_length", 1), request.whole("output_length", 0)
        hashes = [
            whole(block, 0, f"{where}: hash_ids[{place}]") for place, block in enumerate(request.get("hash_ids", list))
        ]
        if not (len(hashes) - 1) * _BLOCK < tokens <= len(hashes) * _BLOCK:
            raise TraceError(f"{where}: {tokens} tokens do not fit {len(hashes)} blocks of {_BLOCK}")
        pieces = tuple(
            Piece(f"mooncake:{block}", 0, min(_BLOCK, tokens - place * _BLOCK)) for place, block in enumerate(hashes)
        )
        node = LLMNode("0", (), pieces, max(output, 1), "request")
        programs.append(TraceProgram(f"mooncake-{number}", "mooncake", at_s, (node,)))
    return programs
