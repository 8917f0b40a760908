"""How much memory a batch will need at its worst moment: what admission is decided by. Pure arithmetic.

Past-Future scheduling (Gong et al., arXiv 2507.10150): sort sequences by the tokens they still produce, the longest
first; when the k-th ends, the k longest are there, each with as many more tokens as the k-th produced.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.config import BLOCK_TOKENS
from engine.sequence import Sequence, blocks_for


def peak_blocks(joining: Sequence, found: int, others: Iterable[Sequence]) -> int:
    """Blocks of their own that `others` and `joining`, `found` of whose blocks are there already, need at the peak.

    peak = max over k of (k * b_k + sum of a_i, i <= k), with a_i blocks for the tokens there are and b_i for those
    still expected, sorted by b descending.
    """
    ahead = [(s.remaining, max(blocks_for(len(s.tokens) + 1), len(s.table)) - s.shared) for s in others]
    ahead.append((joining.remaining, blocks_for(len(joining.tokens) + 1) - found))
    ahead.sort(reverse=True)
    peak, held = 0.0, 0
    for count, (remaining, blocks) in enumerate(ahead, 1):
        held += blocks
        peak = max(peak, held + count * remaining / BLOCK_TOKENS)
    return int(peak) + 1
