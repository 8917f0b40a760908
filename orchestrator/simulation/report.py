"""What came of a simulation: completion times, time to first token, memory, leases, waiting by cause.

Pure data and arithmetic. All times are virtual seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.protocol import LeaseOutcome
from tenuto.wire import Timeline, TimelineCall


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """One LLM call. Times are on the simulation's axis; `ready_s` is when its inputs were there and it was sent,
    `start_s` when it first computed something."""

    stage: str
    ready_s: float
    start_s: float
    first_token_s: float
    end_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int

    @property
    def ttft_s(self) -> float:
        return self.first_token_s - self.ready_s


@dataclass(frozen=True, slots=True)
class ProgramOutcome:
    """One program: `end_s` is the end of its last call. `causes`: seconds of its life by cause, along its path.

    `succeeded`: all its calls ended well; `calls` are those of its LLM calls that did.
    """

    program: str
    workflow: str
    tenant: str
    arrival_s: float
    end_s: float
    deadline_s: float | None
    succeeded: bool
    causes: Mapping[str, float]
    calls: tuple[CallOutcome, ...]

    @property
    def seconds(self) -> float:
        """Completion time, from arrival."""
        return self.end_s - self.arrival_s

    @property
    def met(self) -> bool | None:
        """Whether it ended by its deadline; None if it has none."""
        return None if self.deadline_s is None else self.succeeded and self.seconds <= self.deadline_s


@dataclass(slots=True)
class LeaseMeter:
    """Leases as they ended, and how much memory they held for how long, by outcome.

    Where leases are entries in the orchestrator's books, which the engines are not told of, the byte-seconds of all
    that were not handed off are known together only: as `unused`.
    """

    ended: dict[str, int] = field(default_factory=lambda: {outcome.value: 0 for outcome in LeaseOutcome})
    byte_seconds: dict[str, float] = field(default_factory=lambda: {outcome.value: 0.0 for outcome in LeaseOutcome})

    @property
    def wasted_share(self) -> float:
        """Share of the byte-seconds whose lease did not end in a hand-off."""
        total = sum(self.byte_seconds.values())
        return 1 - self.byte_seconds[LeaseOutcome.HANDOFF] / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """A run's outcome. `scale`: how far arrivals were stretched. `busy_share`: of the engines' time, in steps."""

    scenario: Mapping[str, Any]
    programs: tuple[ProgramOutcome, ...]
    leases: LeaseMeter
    makespan_s: float
    scale: float
    busy_share: float
    peak_private_tokens: int
    recomputed_tokens: int
    preemptions: int
    load: float | None = None
    """The load that the arrivals were calibrated to, as far as the programs reach it."""
    cut_calls: int = 0
    """Calls that ended before their traced output did: it is longer than a call may generate, or than the engine's
    context has room for."""

    # -- completion -----------------------------------------------------------------------------

    @property
    def seconds(self) -> list[float]:
        """Completion times of the programs that succeeded, in order of arrival."""
        return [program.seconds for program in self.programs if program.succeeded]

    @property
    def mean_s(self) -> float:
        """The mean completion time; infinite if no program succeeded."""
        seconds = self.seconds
        return sum(seconds) / len(seconds) if seconds else math.inf

    def quantile_s(self, q: float) -> float:
        """The `q`-quantile of completion times, by linear interpolation; infinite if no program succeeded."""
        return quantile(self.seconds, q) if self.seconds else math.inf

    @property
    def ttfts(self) -> list[float]:
        """Seconds to the first token, of every call that ended well."""
        return [call.ttft_s for program in self.programs for call in program.calls]

    def ttft_s(self, q: float) -> float:
        return quantile(self.ttfts, q)

    @property
    def attainment(self) -> float | None:
        """Share of the programs with a deadline that met it; None without deadlines."""
        judged = [program.met for program in self.programs if program.met is not None]
        return sum(judged) / len(judged) if judged else None

    @property
    def goodput(self) -> float:
        """Programs a second that succeeded and met their deadline, if they have one."""
        good = sum(program.succeeded and program.met is not False for program in self.programs)
        return good / self.makespan_s if self.makespan_s else 0.0

    # -- memory ---------------------------------------------------------------------------------

    @property
    def prompt_tokens(self) -> int:
        return sum(call.prompt_tokens for program in self.programs for call in program.calls)

    @property
    def cached_tokens(self) -> int:
        return sum(call.cached_tokens for program in self.programs for call in program.calls)

    @property
    def hit_rate(self) -> float:
        """Share of the prompt tokens whose KV was there."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def causes(self) -> dict[str, float]:
        """Seconds of all programs' lives by cause."""
        summed: dict[str, float] = {}
        for program in self.programs:
            for cause, seconds in program.causes.items():
                summed[cause] = summed.get(cause, 0.0) + seconds
        return dict(sorted(summed.items()))

    def summary(self) -> dict[str, Any]:
        """The numbers that people ask for, JSON-ready, in a fixed order. `cut_calls` only if there are any."""
        return {
            "scenario": dict(self.scenario),
            "programs": len(self.programs),
            "failed": sum(not program.succeeded for program in self.programs),
            "calls": sum(len(program.calls) for program in self.programs),
            "makespan_s": self.makespan_s,
            "scale": self.scale,
            "load": self.load,
            "completion_s": _spread(self.seconds),
            "ttft_s": _spread(self.ttfts),
            "slo_attainment": self.attainment,
            "goodput_programs_per_s": self.goodput,
            "kv_hit_rate": self.hit_rate,
            "prompt_tokens": self.prompt_tokens,
            "recomputed_tokens": self.recomputed_tokens,
            "preemptions": self.preemptions,
            "engine_busy_share": self.busy_share,
            "peak_private_tokens": self.peak_private_tokens,
            "leases": {
                "ended": self.leases.ended,
                "byte_seconds": self.leases.byte_seconds,
                "wasted_share": self.leases.wasted_share,
            },
            "waiting_s": self.causes,
            **({"cut_calls": self.cut_calls} if self.cut_calls else {}),
        }

    def document(self) -> dict[str, Any]:
        """Everything, JSON-ready: the summary and each program with its calls."""
        return {**self.summary(), "detail": [asdict(program) for program in self.programs]}


def outcome(
    program: str, arrival_s: float, seconds: float, deadline_s: float | None, timeline: Timeline, tenant: str
) -> ProgramOutcome:
    """A program's outcome from its timeline.

    The runtime calls a program without outputs a success whatever became of its calls: a client that waits for them
    does not.
    """
    ended = [call for call in timeline.calls if call.state == "ended"]
    calls = tuple(_call(call, arrival_s) for call in ended if call.kind == "llm" and call.spans)
    return ProgramOutcome(
        program=program,
        workflow=timeline.workflow,
        tenant=tenant,
        arrival_s=arrival_s,
        end_s=arrival_s + seconds,
        deadline_s=deadline_s,
        succeeded=timeline.status.value == "succeeded" and len(ended) == len(timeline.calls),
        causes=timeline.causes,
        calls=calls,
    )


def _call(call: TimelineCall, arrival_s: float) -> CallOutcome:
    spans = [span for span in call.spans if span.cause != "client"]
    ready_s = spans[0].start_s
    first_s = next((span.start_s for span in spans if span.cause == "decode"), spans[-1].end_s)
    return CallOutcome(
        stage=call.stage or "",
        ready_s=arrival_s + ready_s,
        start_s=arrival_s + next((span.start_s for span in spans if span.cause in ("prefill", "decode")), first_s),
        first_token_s=arrival_s + first_s,
        end_s=arrival_s + spans[-1].end_s,
        prompt_tokens=call.prompt_tokens,
        cached_tokens=call.cached_tokens,
        output_tokens=call.output_tokens,
    )


def quantile(values: Sequence[float], q: float) -> float:
    """The `q`-quantile (0..1) by linear interpolation; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and quantiles; None of nothing."""
    if not values:
        return dict.fromkeys(("mean", "p50", "p95", "p99"))
    mean = sum(values) / len(values)
    return {"mean": mean, "p50": quantile(values, 0.5), "p95": quantile(values, 0.95), "p99": quantile(values, 0.99)}
