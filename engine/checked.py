"""Debug mode's runner: every block that is copied between the tiers is compared with what it was.

Knows checksums only. A block whose copy differs, or that changed while it lay on the host, fails the step that uses it.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from hashlib import blake2b
from typing import Protocol

from engine.kv.cache import CopyKind
from engine.local import Runner
from engine.protocol import CorruptedBlock, Tier
from engine.step import Result, Step

_TIERS = {
    CopyKind.DEVICE_TO_HOST: (Tier.DEVICE, Tier.HOST),
    CopyKind.HOST_TO_DEVICE: (Tier.HOST, Tier.DEVICE),
    CopyKind.DEVICE_TO_DEVICE: (Tier.DEVICE, Tier.DEVICE),
}


class Inspectable(Runner, Protocol):
    """A runner that can show a block's contents, once all copies are made."""

    def contents(self, tier: Tier, block: int) -> bytes: ...


class CheckedRunner:
    """Any runner, with each copy checked: several times slower, and for finding faults alone."""

    def __init__(self, runner: Inspectable) -> None:
        self._runner = runner
        self._sums: dict[int, bytes] = {}
        """Of host blocks, when they were written."""
        self.copy_s_per_block = runner.copy_s_per_block

    def run(self, step: Step) -> Seq[Result]:
        return self._runner.run(step)

    def wipe(self, blocks: Seq[int]) -> None:
        self._runner.wipe(blocks)

    def copy(self, kind: CopyKind, pairs: Seq[tuple[int, int]]) -> None:
        """Raises `CorruptedBlock`."""
        source_tier, target_tier = _TIERS[kind]
        for pair in pairs:  # one by one: a later pair may overwrite an earlier one's source
            source, target = pair
            before = self._sum(source_tier, source)
            if source_tier is Tier.HOST and before != self._sums.get(source, before):
                raise CorruptedBlock(f"host block {source} changed since it was written")
            self._runner.copy(kind, [pair])
            if self._sum(target_tier, target) != before:
                raise CorruptedBlock(f"{source_tier} block {source} was copied wrongly to {target_tier} block {target}")
            if target_tier is Tier.HOST:
                self._sums[target] = before

    def _sum(self, tier: Tier, block: int) -> bytes:
        return blake2b(self._runner.contents(tier, block), digest_size=8).digest()
