"""Which leases live, on which tier, until when, and how each ended.

Owns the budget, the order under memory pressure, and the counters. Moves no block and reads no clock:
the engine does what the ledger says, the caller passes `now`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from kv_ttl.errors import DuplicateLease, RetentionError, UnknownLease

_COMPACT = 64
"""A heap is rebuilt when it holds this many more dead entries than live ones."""


class Tier(StrEnum):
    """Where leased blocks are."""

    DEVICE = "device"
    HOST = "host"


class Outcome(StrEnum):
    """How a lease ended; each one ends in exactly one of these."""

    HANDOFF = "handoff"
    """The program's next call took the blocks over: the only outcome in which the memory was of use."""
    EXPIRED = "expired"
    PRESSURE = "pressure"
    CANCELLED = "cancelled"
    FINAL = "final"
    """The program made its last call."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of a program to keep a block range resident until a time.

    `index`: the range's place in the chain, 0 = the root (shared prefix). `remaining_s`: expected remaining
    pause when it was last decided on. `returned`: its call is back and queued, so it no longer expires.
    """

    id: int
    program: str
    index: int
    tier: Tier
    nbytes: int
    opened_at: float
    until: float
    remaining_s: float
    recompute_s: float
    returned: bool = False


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the start. Byte-seconds count residence by tier; `wasted` is that of leases not handed off."""

    opened: int
    refused: int
    demoted: int
    ended: Mapping[Outcome, int]
    byte_seconds: Mapping[Tier, float]
    wasted_byte_seconds: Mapping[Tier, float]


class _Live:
    """A live lease, what it has used so far by tier, and the version that makes older heap entries dead."""

    __slots__ = ("lease", "since", "used", "version")

    def __init__(self, lease: Lease, now: float) -> None:
        self.lease = lease
        self.since = now
        self.used = {Tier.DEVICE: 0.0, Tier.HOST: 0.0}
        self.version = 0


class LeaseLedger:
    """All leases of one engine. Every operation is O(log n), but `expire` and `victims` pay for each lease they name.

    Invariant (`check`): a tier's leased bytes are the sum over its live leases and within its budget; at most one
    live lease a (program, range); every lease opened is live or has exactly one outcome; time never runs back.
    """

    def __init__(self, pool_bytes: Mapping[Tier, int], budget_share: Mapping[Tier, float]) -> None:
        """`pool_bytes`: a tier's size; `budget_share`: the share that leases may hold. A missing tier has none."""
        for tier, share in budget_share.items():
            if not 0 <= share <= 1:
                raise RetentionError(f"budget share of tier {tier}: must be in [0, 1], got {share!r}")
        for tier, size in pool_bytes.items():
            if size < 0:
                raise RetentionError(f"pool of tier {tier}: must be >= 0 bytes, got {size!r}")
        self._budget = {tier: int(pool_bytes.get(tier, 0) * budget_share.get(tier, 0.0)) for tier in Tier}
        self._pool = {tier: pool_bytes.get(tier, 0) for tier in Tier}
        self._leased = dict.fromkeys(Tier, 0)
        self._live: dict[int, _Live] = {}
        self._by_program: dict[str, dict[int, int]] = {}
        self._next_id = 1
        self._now = -math.inf
        self._expiries: list[tuple[float, int, int]] = []
        self._ranking: dict[Tier, list[tuple[float, int, int]]] = {tier: [] for tier in Tier}
        self._refused = 0
        self._demoted = 0
        self._ended = dict.fromkeys(Outcome, 0)
        self._used = dict.fromkeys(Tier, 0.0)
        self._wasted = dict.fromkeys(Tier, 0.0)

    # --- one lease ----------------------------------------------------------------------------------------------

    def open(
        self,
        program: str,
        index: int,
        tier: Tier,
        nbytes: int,
        now: float,
        *,
        until: float,
        remaining_s: float,
        recompute_s: float,
    ) -> Lease | None:
        """A new lease, or None where the tier's budget has no room for it.

        Raises `DuplicateLease` if the program holds one on that range, `RetentionError` for a value out of range.
        """
        if index < 0 or nbytes < 0:
            raise RetentionError(f"lease of program {program!r}: range {index} and bytes {nbytes} must be >= 0")
        _check_decision(program, now, until, remaining_s, recompute_s)
        ranges = self._by_program.get(program, {})
        if index in ranges:
            raise DuplicateLease(f"program {program!r} already holds lease {ranges[index]} on range {index}")
        self._tick(now)
        if self._leased[tier] + nbytes > self._budget[tier]:
            self._refused += 1
            return None
        lease = Lease(self._next_id, program, index, tier, nbytes, now, until, remaining_s, recompute_s)
        self._next_id += 1
        live = self._live[lease.id] = _Live(lease, now)
        self._by_program.setdefault(program, {})[index] = lease.id
        self._leased[tier] += nbytes
        self._enter(live)
        return lease

    def extend(self, lease_id: int, now: float, *, until: float, remaining_s: float) -> Lease | None:
        """Set a new end and expectation after another decision; None if the lease has ended before.

        The pause goes on, even if a call had been back: it failed.
        """
        live = self._find(lease_id)
        if live is None:
            return None
        _check_decision(live.lease.program, now, until, remaining_s, live.lease.recompute_s)
        self._tick(now)
        return self._change(live, replace(live.lease, until=until, remaining_s=remaining_s, returned=False))

    def demote(self, lease_id: int, now: float, *, until: float, recompute_s: float | None = None) -> Lease | None:
        """Move a device lease to the host; None if it has ended before or the host's budget has no room.

        In the second case it stays as it is and the caller ends it. `recompute_s`: what its loss costs from now on.
        """
        live = self._find(lease_id)
        if live is None:
            return None
        old = live.lease
        seconds = old.recompute_s if recompute_s is None else recompute_s
        _check_decision(old.program, now, until, old.remaining_s, seconds)
        if old.tier is Tier.HOST:
            raise RetentionError(f"lease {lease_id} of program {old.program!r} is on the host already")
        self._tick(now)
        if self._leased[Tier.HOST] + old.nbytes > self._budget[Tier.HOST]:
            self._refused += 1
            return None
        self._settle(live, now)
        self._leased[old.tier] -= old.nbytes
        self._leased[Tier.HOST] += old.nbytes
        self._demoted += 1
        return self._change(live, replace(old, tier=Tier.HOST, until=until, recompute_s=seconds, returned=False))

    def close(self, lease_id: int, outcome: Outcome, now: float) -> Lease | None:
        """End a lease; None if it had ended before (its first outcome stands). Raises `UnknownLease`."""
        live = self._find(lease_id)
        if live is None:
            return None
        self._tick(now)
        self._settle(live, now)
        lease = live.lease
        del self._live[lease_id]
        ranges = self._by_program[lease.program]
        del ranges[lease.index]
        if not ranges:
            del self._by_program[lease.program]
        self._leased[lease.tier] -= lease.nbytes
        self._ended[outcome] += 1
        for tier, used in live.used.items():
            self._used[tier] += used
            if outcome is not Outcome.HANDOFF:
                self._wasted[tier] += used
        return lease

    # --- one program --------------------------------------------------------------------------------------------

    def returned(self, program: str, now: float) -> list[Lease]:
        """The program's pause is over and its call waits in the queue: its leases no longer expire. Root first."""
        self._tick(now)
        lives = [self._live[lease_id] for _, lease_id in sorted(self._by_program.get(program, {}).items())]
        return [self._change(live, replace(live.lease, returned=True)) for live in lives]

    def close_program(self, program: str, outcome: Outcome, now: float) -> list[Lease]:
        """End all leases of a program (handoff, final or cancelled). Root first."""
        held = sorted(self._by_program.get(program, {}).items())
        return [lease for _, lease_id in held if (lease := self.close(lease_id, outcome, now)) is not None]

    def held(self, program: str) -> list[Lease]:
        """The program's live leases, root first."""
        return [self._live[lease_id].lease for _, lease_id in sorted(self._by_program.get(program, {}).items())]

    # --- all leases ---------------------------------------------------------------------------------------------

    def expired(self, now: float) -> list[Lease]:
        """Live leases whose time is over and whose call is not back, in order of their end.

        They stay live: the caller decides again and extends, demotes or closes each one.
        """
        self._tick(now)
        due: list[tuple[float, int, int]] = []
        while self._expiries and self._expiries[0][0] <= now:
            entry = heapq.heappop(self._expiries)
            if self._is_current(entry):
                due.append(entry)
        for entry in due:
            heapq.heappush(self._expiries, entry)
        return [self._live[lease_id].lease for _, lease_id, _ in due]

    def next_expiry(self) -> float:
        """When the next lease runs out; inf if none does."""
        while self._expiries and not self._is_current(self._expiries[0]):
            heapq.heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else math.inf

    def victims(self, tier: Tier, nbytes: int) -> list[Lease]:
        """Leases to give up so that at least `nbytes` of the tier come free; all of them if that is not enough.

        First the largest (expected remaining pause x share of the pool / seconds to make it again). Of one program
        the tip goes before the root, for a range is worth nothing without those before it. Leases whose call is
        back go last. They stay live: the caller demotes or closes each one.
        """
        heap = self._ranking[tier]
        chosen: dict[int, Lease] = {}
        popped: list[tuple[float, int, int]] = []
        freed = 0
        while heap and freed < nbytes:
            entry = heapq.heappop(heap)
            if not self._is_current(entry):
                continue
            popped.append(entry)
            root = self._live[entry[1]].lease
            for one in reversed(self.held(root.program)):
                if freed < nbytes and one.index >= root.index and one.tier is tier and one.id not in chosen:
                    chosen[one.id] = one
                    freed += one.nbytes
        for entry in popped:
            heapq.heappush(heap, entry)
        return list(chosen.values())

    def leased_bytes(self, tier: Tier) -> int:
        """Bytes under lease."""
        return self._leased[tier]

    def free_bytes(self, tier: Tier) -> int:
        """Bytes that new leases may still take."""
        return self._budget[tier] - self._leased[tier]

    def __len__(self) -> int:
        return len(self._live)

    def counters(self, now: float) -> Counters:
        """Totals up to `now`, with the residence of live leases so far (never counted as wasted)."""
        self._tick(now)
        used = dict(self._used)
        for live in self._live.values():
            self._settle(live, now)
            for tier, spent in live.used.items():
                used[tier] += spent
        opened = self._next_id - 1
        return Counters(opened, self._refused, self._demoted, dict(self._ended), used, dict(self._wasted))

    def check(self) -> None:
        """Raise AssertionError if the invariant of the class docstring is broken."""
        for tier in Tier:
            total = sum(live.lease.nbytes for live in self._live.values() if live.lease.tier is tier)
            booked = self._leased[tier]
            assert total == booked <= self._budget[tier], f"{tier}: {total} bytes leased, {booked} booked"
            ranked = {entry[1] for entry in self._ranking[tier] if self._is_current(entry)}
            expected = {live.lease.id for live in self._live.values() if live.lease.tier is tier}
            assert expected <= ranked, f"{tier}: leases {expected - ranked} cannot be chosen under pressure"
        by_range = {(live.lease.program, live.lease.index): lease_id for lease_id, live in self._live.items()}
        listed = {(program, index): i for program, ranges in self._by_program.items() for index, i in ranges.items()}
        assert by_range == listed and len(by_range) == len(self._live), "two leases on one range"
        assert self._next_id - 1 == len(self._live) + sum(self._ended.values()), "a lease without exactly one outcome"
        waiting = {entry[1] for entry in self._expiries if self._is_current(entry)}
        expected = {live.lease.id for live in self._live.values() if not live.lease.returned}
        assert waiting == expected, f"leases {waiting ^ expected} are wrongly (not) waiting to expire"

    # --- inside -------------------------------------------------------------------------------------------------

    def _find(self, lease_id: int) -> _Live | None:
        live = self._live.get(lease_id)
        if live is None and not 0 < lease_id < self._next_id:
            raise UnknownLease(f"lease {lease_id} was never opened")
        return live

    def _tick(self, now: float) -> None:
        if not now >= self._now:
            raise RetentionError(f"time runs back: {now!r} after {self._now!r}")
        self._now = now

    def _settle(self, live: _Live, now: float) -> None:
        live.used[live.lease.tier] += live.lease.nbytes * (now - live.since)
        live.since = now

    def _change(self, live: _Live, lease: Lease) -> Lease:
        live.lease = lease
        live.version += 1
        self._enter(live)
        return lease

    def _enter(self, live: _Live) -> None:
        lease = live.lease
        if not lease.returned:
            heapq.heappush(self._expiries, (lease.until, lease.id, live.version))
            self._expiries = self._compact(self._expiries)
        ranking = self._ranking[lease.tier]
        heapq.heappush(ranking, (self._rank(lease), lease.id, live.version))
        self._ranking[lease.tier] = self._compact(ranking)

    def _rank(self, lease: Lease) -> float:
        """Smallest goes first. A returned call's lease is about to be used: after all others."""
        if lease.returned:
            return math.inf
        share = lease.nbytes / max(1, self._pool[lease.tier])
        return -lease.remaining_s * share / max(lease.recompute_s, 1e-9)

    def _is_current(self, entry: tuple[float, int, int]) -> bool:
        live = self._live.get(entry[1])
        return live is not None and live.version == entry[2]

    def _compact(self, heap: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
        if len(heap) <= 2 * len(self._live) + _COMPACT:
            return heap
        heap = [entry for entry in heap if self._is_current(entry)]
        heapq.heapify(heap)
        return heap


def _check_decision(program: str, now: float, until: float, remaining_s: float, recompute_s: float) -> None:
    if not (until >= now and remaining_s >= 0 and 0 <= recompute_s < math.inf):
        raise RetentionError(
            f"lease of program {program!r}: need until >= now, remaining_s >= 0 and finite recompute_s >= 0, "
            f"got until {until!r} at {now!r}, {remaining_s!r}, {recompute_s!r}"
        )
