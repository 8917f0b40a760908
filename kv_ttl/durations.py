"""How long function calls take: learned per tool and environment, from calls that ended and from calls still running.

Owns the statistics and their hierarchy. Never reads a clock (`now` is given), never sees arguments or results,
and never decides anything.
"""

from __future__ import annotations

import itertools
import math
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kv_ttl.errors import RetentionError, UnknownCall
from kv_ttl.forecast import (
    BUCKETS,
    EDGES,
    FIRST_OCTAVE,
    LAST_OCTAVE,
    PER_OCTAVE,
    FloatArray,
    Forecast,
    Life,
    bucket,
    joined,
    mixture,
)

_STAGE_STARTS = [4.0**stage for stage in range(LAST_OCTAVE // 2 + 1)]
"""A running call is evidence from 1 s on; each factor of 4 after that is one stage."""
_STAGES = len(_STAGE_STARTS)
_OUTLIVED = [*((2 * stage - FIRST_OCTAVE) * PER_OCTAVE + 1 for stage in range(_STAGES)), 0]
"""A call of stage s has outlived the buckets before this one; the last entry is that of stage -1, none yet."""
_ADVANCED_PER_EVENT = 8
"""Running calls moved to their stage at one event: bounds its cost; a lag only delays evidence."""
_HINT_SPREAD = 1.0
"""Log-standard deviation of a declared duration: two thirds of the calls within a factor e of it."""
_HINT_WEIGHT = 0.75
"""How far a declaration is believed, against what is known of other tools."""
_SETTLED = 8
"""A key with more ended calls of its own than this follows a change of its base only at its next own change."""
_RUNNING_UNUSED = 16
"""So much evidence of running calls may wait for the next call of the same key that ends."""
_FAMILY = re.compile(r"__|[:./ ]")

Key = tuple[str, ...]


@lru_cache(maxsize=4096)
def family(tool: str) -> str:
    """The first word of a tool's name: `bash` of `bash:pytest`, `github` of `github__search_issues`."""
    return _FAMILY.split(tool, maxsplit=1)[0] or tool


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What is known of a function call before it runs.

    `environment`: where it runs (deployment, container image): durations of one say little of another.
    `shape`: the shape of its arguments, as fine as the caller likes, never the arguments; "" = unknown.
    `declared_s`: a duration that the tool's author or an MCP server states, a prior; `timeout_s`: its limit.
    """

    tool: str
    environment: str = ""
    tenant: str = "default"
    program: str = ""
    shape: str = ""
    declared_s: float | None = None
    timeout_s: float = math.inf

    def __post_init__(self) -> None:
        if not self.tool:
            raise RetentionError("tool call: the tool's name is empty")
        if self.declared_s is not None and not 0 < self.declared_s < math.inf:
            raise RetentionError(f"tool call {self.tool!r}: declared_s must be finite and > 0, got {self.declared_s!r}")
        if not self.timeout_s > 0:
            raise RetentionError(f"tool call {self.tool!r}: timeout_s must be > 0, got {self.timeout_s!r}")


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A call that a pause still waits for. `started_at`: None until it has started.

    `after`: indices of the earlier outstanding calls of the same pause whose end it waits for.
    """

    call: ToolCall
    started_at: float | None = None
    after: tuple[int, ...] = ()


class _Node:
    """The calls of one key: `counts[0]`, how many outlived each bucket, of `counts[1]`, how many were at risk there.

    A call adds to a bucket once, when it is known to have ended in it or outlived it, and by that makes all
    older evidence of that bucket fade: so rare long calls are not forgotten for many short ones.
    `life` is what follows from the counts over `base`, `unused` pieces of evidence ago; None = to be computed again.
    Invariant: 0 <= counts[0] <= counts[1].
    """

    __slots__ = ("base", "counts", "ended", "life", "unused")

    def __init__(self) -> None:
        self.counts: FloatArray = np.zeros((2, BUCKETS))
        self.ended = 0
        self.unused = 0
        self.life: Life | None = None
        self.base: Life | None = None


class _Nodes:
    """At most `limit` nodes; the one that was touched longest ago makes room."""

    __slots__ = ("by_key", "limit")

    def __init__(self, limit: int) -> None:
        self.by_key: OrderedDict[Key, _Node] = OrderedDict()
        self.limit = limit

    def touch(self, key: Key) -> tuple[_Node, Key | None]:
        """The key's node, made if need be, and the key that had to go for it."""
        node = self.by_key.get(key)
        if node is not None:
            self.by_key.move_to_end(key)
            return node, None
        gone = self.by_key.popitem(last=False)[0] if len(self.by_key) >= self.limit else None
        node = self.by_key[key] = _Node()
        return node, gone


class _Running:
    """A call that has started, and the stage up to which its keys already count it as outlived."""

    __slots__ = ("call", "stage", "started_at")

    def __init__(self, call: ToolCall, started_at: float) -> None:
        self.call = call
        self.started_at = started_at
        self.stage = -1


class DurationModel:
    """Durations of function calls, on a log-spaced grid, each key shrunk to the next more general one.

    Keys, general to specific: everything; tenant + environment; the tool anywhere; [the declared duration];
    family, tool, and argument shape in that tenant and environment; the tool in this very program. A key's
    hazard in bucket j is `(events_j + m S_j base_j) / (at_risk_j + m S_j)`, where `base` is the parent's hazard, S its
    survival at the bucket's start, and m = `pseudo_samples`: the posterior mean of a Dirichlet process under right
    censoring (Susarla and Van Ryzin 1976, "Nonparametric Bayesian estimation of survival curves from incomplete
    observations"), which with m = 0 is Kaplan-Meier. So the parent, and by that another environment's history, counts
    as m calls, however long it is; and a running call is used as censored: at risk in every bucket that it
    has outlived (rounded down to a power of 4 s).

    Each call that reaches a bucket multiplies the bucket's older evidence by `forget`: a key holds the weight of at
    most 1 / (1 - forget) calls, so it adapts within a few dozen and needs constant memory.

    Invariant (`check`): keys within their bounds, no more events than calls at risk, every running call in the
    queue that waits for its next stage.
    """

    def __init__(
        self,
        *,
        pseudo_samples: float = 3.0,
        forget: float = 0.95,
        max_keys: int = 4096,
        max_program_keys: int = 16384,
        prior_median_s: float = 1.0,
        prior_spread: float = 2.5,
    ) -> None:
        """`prior_*`: the log-normal that is believed of an unknown tool before anything was seen.

        Raises `RetentionError` for a value outside its range.
        """
        if not (pseudo_samples > 0 and 0 < forget < 1 and max_keys >= 8 and max_program_keys >= 1):
            raise RetentionError(
                "duration model: need pseudo_samples > 0, 0 < forget < 1, max_keys >= 8, max_program_keys >= 1, got "
                f"{pseudo_samples!r}, {forget!r}, {max_keys!r}, {max_program_keys!r}"
            )
        self._pseudo = pseudo_samples
        self._forget = forget
        self._prior = _lognormal(prior_median_s, prior_spread)
        self._shared = _Nodes(max_keys)
        self._private = _Nodes(max_program_keys)
        self._program_keys: dict[str, set[Key]] = {}
        self._running: dict[Hashable, _Running] = {}
        # Queue s holds the calls that wait for stage s, oldest start first.
        self._queues: list[OrderedDict[Hashable, _Running]] = [OrderedDict() for _ in range(_STAGES)]

    # --- what happens -------------------------------------------------------------------------------------------

    def started(self, call_id: Hashable, call: ToolCall, now: float) -> None:
        """A call has started. Raises `RetentionError` if the id is already running."""
        if call_id in self._running:
            raise RetentionError(f"call {call_id!r} of tool {call.tool!r} has already started")
        _check_time(now)
        run = self._running[call_id] = _Running(call, now)
        self._queues[0][call_id] = run
        self.advance(now, _ADVANCED_PER_EVENT)

    def returned(self, call_id: Hashable, now: float) -> float:
        """A running call has returned, well or failed; its duration in seconds. Raises `UnknownCall`."""
        _check_time(now)
        run = self._take(call_id)
        seconds = max(0.0, now - run.started_at)
        begin = _OUTLIVED[run.stage]
        self._learn(run.call, begin, max(begin, bucket(seconds)), has_ended=True)
        self.advance(now, _ADVANCED_PER_EVENT)
        return seconds

    def cancelled(self, call_id: Hashable) -> None:
        """A running call will never return; what it has outlived stays as evidence. Raises `UnknownCall`."""
        self._take(call_id)

    def observe(self, call: ToolCall, seconds: float) -> None:
        """Learn from a call that was not announced by `started`: history, or a client's own tools.

        Raises `RetentionError` unless `seconds` is finite and >= 0.
        """
        if not 0 <= seconds < math.inf:
            raise RetentionError(f"tool call {call.tool!r}: a duration must be finite and >= 0, got {seconds!r}")
        self._learn(call, 0, bucket(seconds), has_ended=True)

    def advance(self, now: float, limit: int | None = None) -> int:
        """Count running calls as at risk up to the power of 4 s that they have outlived by `now`; how many were moved.

        `started` and `returned` do so for a few calls each time; without events for long, call this before
        a forecast. With a `limit` the rest waits for the next time.
        """
        _check_time(now)
        moved = 0
        # Highest stage first: so each queue stays sorted by start, and looking at its front is enough.
        for stage in range(_STAGES - 1, -1, -1):
            queue = self._queues[stage]
            while queue:
                call_id, run = next(iter(queue.items()))
                elapsed = now - run.started_at
                if elapsed < _STAGE_STARTS[stage]:
                    break
                if moved == limit:
                    return moved
                del queue[call_id]
                begin = _OUTLIVED[run.stage]
                run.stage = bisect_right(_STAGE_STARTS, elapsed) - 1
                self._learn(run.call, begin, _OUTLIVED[run.stage], has_ended=False)
                if run.stage + 1 < _STAGES:
                    self._queues[run.stage + 1][call_id] = run
                moved += 1
        return moved

    def end_program(self, program: str) -> None:
        """Forget what was kept for this program alone; what it taught about its tools stays."""
        for key in self._program_keys.pop(program, ()):
            del self._private.by_key[key]

    # --- what is asked ------------------------------------------------------------------------------------------

    def forecast(self, calls: Sequence[Outstanding], now: float) -> Forecast:
        """When all of these calls will have returned, counted from `now`. Changes nothing.

        Parallel calls are joined by their maximum, calls in a row by their sum, a call's own elapsed time is
        conditioned on. Raises `RetentionError` if `after` names a call that is not an earlier one, or `now` is no time.
        """
        _check_time(now)
        ends: list[FloatArray] = []
        for one in calls:
            elapsed = 0.0 if one.started_at is None else now - one.started_at
            ends.append(self.life(one.call).returned(elapsed, one.call.timeout_s))
        return joined(ends, [one.after for one in calls])

    def life(self, call: ToolCall) -> Life:
        """The distribution of the call's duration."""
        base = self._prior
        shared, private = self._shared.by_key, self._private.by_key
        general, specific, program = _keys(call)
        for key in general:
            node = shared.get(key)
            if node is not None:
                base = self._posterior(node, base)
        if call.declared_s is not None:
            base = mixture(_declared(bucket(call.declared_s)), _HINT_WEIGHT, base)
        for key in specific:
            node = shared.get(key)
            if node is not None:
                base = self._posterior(node, base)
        node = private.get(program) if program else None
        return base if node is None else self._posterior(node, base)

    @property
    def running(self) -> int:
        """Calls that have started and not ended."""
        return len(self._running)

    def check(self) -> None:
        """Raise AssertionError if the invariant of the class docstring is broken."""
        for nodes in (self._shared, self._private):
            assert len(nodes.by_key) <= nodes.limit, f"{len(nodes.by_key)} keys, limit {nodes.limit}"
            for key, node in nodes.by_key.items():
                outlived, at_risk = node.counts
                assert outlived.min() > -1e-9, f"{key}: counts below zero"
                assert (at_risk - outlived).min() > -1e-9, f"{key}: more outlived a bucket than were at risk"
        assert set(self._private.by_key) == {key for keys in self._program_keys.values() for key in keys}
        waiting = {call_id: stage for stage, queue in enumerate(self._queues) for call_id in queue}
        for call_id, run in self._running.items():
            assert waiting.pop(call_id, _STAGES) == run.stage + 1, f"call {call_id!r} is not in the queue of its stage"
        assert not waiting, f"calls in a queue that are not running: {sorted(map(repr, waiting))}"

    # --- inside -------------------------------------------------------------------------------------------------

    def _take(self, call_id: Hashable) -> _Running:
        run = self._running.pop(call_id, None)
        if run is None:
            raise UnknownCall(f"call {call_id!r} is not running: it never started or has already ended")
        if run.stage + 1 < _STAGES:
            del self._queues[run.stage + 1][call_id]
        return run

    def _learn(self, call: ToolCall, begin: int, end: int, *, has_ended: bool) -> None:
        """The call outlived the buckets from `begin` to before `end`, and ended in that one or is still running."""
        until = min(end + has_ended, BUCKETS)
        for node in self._touch(call):
            known = node.counts[:, begin:until]
            known *= self._forget
            known += 1.0
            if has_ended:
                node.ended += 1
                if end < BUCKETS:
                    node.counts[0, end] -= 1.0
            node.unused += 1
            if has_ended or node.ended <= _SETTLED or node.unused > _RUNNING_UNUSED:
                node.life = None
        if has_ended:
            # The call that ends pays: a decision finds the lives of its keys computed.
            self.life(call)

    def _touch(self, call: ToolCall) -> list[_Node]:
        general, specific, program = _keys(call)
        nodes = [self._shared.touch(key)[0] for key in (*general, *specific)]
        if program:
            node, gone = self._private.touch(program)
            nodes.append(node)
            self._program_keys.setdefault(call.program, set()).add(program)
            if gone:
                owner = self._program_keys[gone[0]]
                owner.remove(gone)
                if not owner:
                    del self._program_keys[gone[0]]
        return nodes

    def _posterior(self, node: _Node, base: Life) -> Life:
        if node.life is not None and (node.base is base or node.ended > _SETTLED):
            return node.life
        weight = base.survived[:-1] * self._pseudo
        # Where the base lets nobody live and nobody was seen, the base still stands.
        weight += 1e-12
        outlives = base.outlives * weight
        outlives += node.counts[0]
        weight += node.counts[1]
        outlives /= weight
        node.life, node.base, node.unused = Life.of(outlives), base, 0
        return node.life


def _check_time(now: float) -> None:
    if not math.isfinite(now):
        raise RetentionError(f"now: must be a finite time in seconds, got {now!r}")


def _keys(call: ToolCall) -> tuple[tuple[Key, ...], tuple[Key, ...], Key | None]:
    """Keys general to specific: before the declared duration, after it, and the program's own."""
    tool, tenant, environment, shape = call.tool, call.tenant, call.environment, call.shape
    general = ((), (tenant, environment), (tool,))
    specific: tuple[Key, ...] = ((tenant, environment, tool, ""),)
    first = family(tool)
    if first != tool:
        specific = ((tenant, environment, first), *specific)
    if shape:
        specific = (*specific, (tenant, environment, tool, shape))
    return general, specific, (call.program, tool, shape) if call.program else None


def _lognormal(median_s: float, spread: float) -> Life:
    if not (0 < median_s < math.inf and 0 < spread < math.inf):
        raise RetentionError(f"prior: median and spread must be finite and > 0, got {median_s!r}, {spread!r}")
    survived = [1.0] + [math.erfc(math.log(edge / median_s) / spread / math.sqrt(2)) / 2 for edge in EDGES.tolist()]
    # Far out in the tail nothing is certain, whatever a narrow prior says.
    shares = [late / early if early > 0 else 0.0 for early, late in itertools.pairwise(survived)]
    return Life.of(np.maximum(shares, 0.001))


@lru_cache(maxsize=BUCKETS + 1)
def _declared(at: int) -> Life:
    return _lognormal(float(EDGES[min(at, BUCKETS - 1)]), _HINT_SPREAD)
