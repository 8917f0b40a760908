"""Mooncake traces (kvcache-ai/Mooncake, FAST'25): one request a line, prompts as hashes of 512-token blocks.

A request is a program of one call. Its blocks are streams named by their hashes, so requests share what the trace says;
a block's hash covers its prefix too. Outputs are never part of later prompts: the format does not tell which blocks
they became.
"""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.simulation.lines import TraceError, lines
from orchestrator.simulation.trace import LLMNode, Piece, TraceProgram

_BLOCK = 512


def read_mooncake(path: Path) -> list[TraceProgram]:
    """Raises TraceError, with the line."""
    programs: list[TraceProgram] = []
    for number, line in lines(path):
        where = f"{path.name}:{number}"
        try:
            request = json.loads(line)
            at_s = float(request["timestamp"]) / 1000
            tokens, output = int(request["input_length"]), int(request["output_length"])
            hashes = [int(block) for block in request["hash_ids"]]
        except (ValueError, KeyError, TypeError) as fault:
            expected = "timestamp, input_length, output_length and hash_ids"
            raise TraceError(f"{where}: expected {expected}: {type(fault).__name__}: {fault}") from None
        if tokens < 1 or output < 0 or at_s < 0 or not (len(hashes) - 1) * _BLOCK < tokens <= len(hashes) * _BLOCK:
            raise TraceError(f"{where}: {tokens} tokens do not fit {len(hashes)} blocks of {_BLOCK}")
        pieces = tuple(
            Piece(f"mooncake:{block}", 0, min(_BLOCK, tokens - place * _BLOCK)) for place, block in enumerate(hashes)
        )
        node = LLMNode("0", (), pieces, max(output, 1), "request")
        programs.append(TraceProgram(f"mooncake-{number}", "mooncake", at_s, (node,)))
    return programs
