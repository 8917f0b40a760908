"""How good are TTL decisions, and how fast? `python -m benchmarks.retention [--trace FILE...] [--json FILE] [--quick]`.

Owns the measure: each rule's share of the oracle's reward on real pauses, learned online, and the time of a decision.
"""

from __future__ import annotations

import copy
import functools
import math
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.common import Figure, conditions, finish, parser, percentile
from benchmarks.retention_traces import Program, TraceError, Waiting, generate, read, replay
from kv_ttl.baselines import ContinuumPaper, ContinuumPublic, Fixed, Oracle, ThunderAgent
from kv_ttl.decision import BlockRange, choose, ttl
from kv_ttl.durations import DurationModel, Outstanding, ToolCall
from kv_ttl.rules import Rule, StopAware

SAVED_S = (1.0, 2.0, 4.0, 8.0, 16.0)
SLOTS = 8
GOAL_SET, GOAL_MEAN, GOAL_CELL, GOAL_DECISION_S = 0.92, 0.93, 0.85, 5e-5
BOUND, WRONG, CHANGED = "hindsight by tools", "stop-aware after ", "stop-aware, changed unnoticed from "
RULES: tuple[Callable[[], Rule], ...] = (
    StopAware,
    ContinuumPaper,
    lambda: ContinuumPaper(enough=20),
    ContinuumPublic,
    lambda: Fixed(2.0),
    ThunderAgent,
    lambda: Fixed(float("inf")),
    lambda: Fixed(0.0),
)
METHOD = """\
Reward of a pause of d seconds under TTL t, price 1: B - d if d <= t, else -t; the oracle keeps exactly when d < B.
A cell is (set, B): sum of rewards over all its pauses and program orders / the oracle's sum. A set's figure is the mean
of its five cells, the mean figure the mean over sets. Programs run 8 at a time in virtual time, a rule learns a pause
when it ends. Counted are the {programs} programs. Of a file that constants were chosen on (known by its digest) a hash
of the program's name fixes a tuning half, which alone was used, and an unseen half; of other files all are unseen.
A set counts in the goals if one TTL for each (environment, tools), chosen in hindsight with all its durations known,
reaches {goal} of the oracle: below that the tools' names do not tell when a pause ends and the figure would measure
the trace. The other sets are in the table, in brackets.
Wrong prior: the rule first learns all of one other set, under that set's environment; the worst other set counts."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Sums over a cell's pauses."""

    reward: float
    oracle: float

    @property
    def share(self) -> float:
        """Share of the oracle's reward; 0 where there is nothing to win."""
        return self.reward / self.oracle if self.oracle > 0 else 0.0


def reward(saved_s: float, seconds: float, ttl_s: float) -> float:
    """What a TTL is worth in hindsight at price 1."""
    if ttl_s <= 0:
        return 0.0
    return saved_s - seconds if seconds <= ttl_s else -ttl_s


class Trial:
    """One rule over one order of programs: what it won, and what the oracle would have."""

    def __init__(self, rule: Rule, saved_s: float) -> None:
        self.rule = rule
        self.saved_s = saved_s
        self.won = self.best = 0.0
        self._ttl: dict[str, float] = {}

    def pause(self, waiting: Waiting) -> None:
        """Let the rule decide."""
        self._ttl[waiting.pause.key] = self.rule.decide(waiting.pause)

    def ended(self, waiting: Waiting) -> None:
        """Count the decision and let the rule learn."""
        self.won += reward(self.saved_s, waiting.seconds, self._ttl.pop(waiting.pause.key))
        known = replace(waiting.pause, known_s=waiting.seconds)
        self.best += reward(self.saved_s, waiting.seconds, Oracle().decide(known))
        self.rule.observe(waiting.pause, waiting.durations, waiting.seconds)


def measure(programs: Sequence[Program], make: Callable[[], Rule], saved_s: float, seeds: Sequence[int]) -> Cell:
    """One rule in one cell, a fresh rule and another order of programs for each seed."""
    trials: list[Trial] = []
    for seed in seeds:
        order = sorted(programs, key=lambda program: program.name)
        random.Random(seed).shuffle(order)
        trial = Trial(make(), saved_s)
        replay(order, SLOTS, trial.pause, trial.ended, saved_s)
        trials.append(trial)
    return Cell(sum(trial.won for trial in trials), sum(trial.best for trial in trials))


def taught(programs: Sequence[Program]) -> StopAware:
    """Our rule after a whole history."""
    trial = Trial(StopAware(), 1.0)
    replay(programs, SLOTS, trial.pause, trial.ended, 1.0)
    assert isinstance(trial.rule, StopAware)
    for program in programs:
        trial.rule.model.end_program(program.name)
    return trial.rule


def hindsight(programs: Sequence[Program]) -> list[float]:
    """Shares of the oracle's reward of the best constant TTL for each (environment, tools), durations known."""
    lengths: dict[tuple[str, ...], list[float]] = defaultdict(list)

    def collect(waiting: Waiting) -> None:
        calls = waiting.pause.calls
        lengths[(waiting.program.environment, *sorted({call.tool for call in calls}))].append(waiting.seconds)

    replay(programs, SLOTS, lambda waiting: None, collect, 1.0)
    shares: list[float] = []
    for saved_s in SAVED_S:
        won = best = 0.0
        for seconds in lengths.values():
            seconds.sort()
            spent, most = 0.0, 0.0
            for rank, length in enumerate(seconds, start=1):
                spent += length
                most = max(most, saved_s * rank - spent - length * (len(seconds) - rank))
                best += max(0.0, saved_s - length)
            won += most
        shares.append(Cell(won, best).share)
    return shares


def counting(shares: Mapping[tuple[str, str], Sequence[float]], sets: Iterable[str]) -> list[str]:
    """The sets that count in the goals; all of them where none is decidable."""
    names = list(sets)
    return [name for name in names if statistics.mean(shares[BOUND, name]) >= GOAL_SET] or names


def compare(
    sets: Mapping[str, Sequence[Program]], everything: Mapping[str, Sequence[Program]], seeds: Sequence[int]
) -> dict[tuple[str, str], list[float]]:
    """Shares at each B of every rule, ours from wrong histories too, and the hindsight bound, by (rule, set)."""
    shares: dict[tuple[str, str], list[float]] = {}
    for name, programs in sets.items():
        shares[BOUND, name] = hindsight(programs)
    for make in RULES:
        for name, programs in sets.items():
            shares[make().name, name] = [measure(programs, make, saved_s, seeds).share for saved_s in SAVED_S]
    counted = counting(shares, sets)
    for other, history in everything.items():
        trained = taught(history)
        for name, programs in sets.items():
            if other == name or name not in counted:
                continue
            environments = sorted({program.environment for program in programs})
            hidden = taught(
                [replace(one, environment=own, tenant=programs[0].tenant) for own in environments for one in history]
            )
            for start, label in ((trained, WRONG), (hidden, CHANGED)):
                shares[label + other, name] = [
                    measure(programs, functools.partial(copy.deepcopy, start), saved_s, seeds[:2]).share
                    for saved_s in SAVED_S
                ]
    return shares


def decision_seconds(count: int, live: int, seed: int) -> dict[str, float]:
    """Seconds of one TTL decision (forecast and TTL), `live` pauses being open; wall time and processor time.

    Each decision stands between the events of a running system: calls start and return all the time. `chain`: with
    the choice of keep, host or drop for the ranges of a chain on top; `events`: what a pause's start and end cost.
    """
    rng = random.Random(seed)
    model = DurationModel()
    tools = [f"shell:{word}" for word in ("test", "vcs", "python", "pip")] + ["read", "edit", "search", "fetch"]
    chain = (BlockRange(1.0, 0.05), BlockRange(4.0, 0.4, queue_s=1.0, reload_s=0.2, host_price=0.01))
    paused: list[list[tuple[int, int]]] = []
    spent: dict[str, list[float]] = {"ttl": [], "ttl_cpu": [], "chain": [], "events": []}
    for number in range(live + count):
        now = number * 0.002
        environment, program = f"env{number % 4}", f"p{number % (2 * live)}"
        calls = [
            ToolCall(rng.choice(tools), environment, program=program)
            for _ in range(rng.choices((1, 2, 3), (90, 8, 2))[0])
        ]
        begin = time.perf_counter()
        if len(paused) == live:
            at = rng.randrange(live)
            paused[at], paused[-1] = paused[-1], paused[at]
            for call_id in paused.pop():
                model.returned(call_id, now)
        paused.append([(number, index) for index in range(len(calls))])
        for call_id, call in zip(paused[-1], calls, strict=True):
            model.started(call_id, call, now)
        waited = [Outstanding(call, now) for call in calls]
        cpu, middle = time.thread_time(), time.perf_counter()
        forecast = model.forecast(waited, now)
        ttl(forecast, 5.0, 0.3)
        end, cpu_end = time.perf_counter(), time.thread_time()
        choose(forecast, chain)
        last = time.perf_counter()
        if number >= live:
            for name, seconds in zip(spent, (end - middle, cpu_end - cpu, last - middle, middle - begin), strict=True):
                spent[name].append(seconds)
    return {f"{name}_p{q}_s": percentile(times, q / 100) for name, times in spent.items() for q in (50, 99)}


def table(
    programs: str, titles: Sequence[str], sets: Sequence[str], shares: Mapping[tuple[str, str], Sequence[float]]
) -> None:
    """Print the method, and every rule's shares by set and B."""
    out = Table(
        title="share of the oracle's reward at B = " + " / ".join(f"{b:g}" for b in SAVED_S) + " s, and the mean"
    )
    out.add_column("rule")
    for title in titles:
        out.add_column(title)
    for rule in dict.fromkeys(rule for rule, _ in shares):
        row = [_row(shares[rule, name]) if (rule, name) in shares else "" for name in sets]
        out.add_row(rule, *row)
    console = Console(width=max(120, 30 + 44 * len(sets)))
    console.print(METHOD.format(programs=programs, goal=GOAL_SET), highlight=False)
    console.print(out)


def _row(shares: Sequence[float]) -> str:
    return "/".join(f"{share:.3f}" for share in shares) + f" = {statistics.mean(shares):.3f}"


def figures_of(
    counted: Sequence[str], shares: Mapping[tuple[str, str], Sequence[float]], decision_s: float
) -> list[Figure]:
    """The figures over the sets that count (all of them where none does)."""

    def worst(label: str) -> float:
        means = [
            statistics.mean(of) for (rule, name), of in shares.items() if rule.startswith(label) and name in counted
        ]
        return min(means, default=math.nan)

    cold = {name: shares[StopAware.name, name] for name in counted}
    means = [statistics.mean(of) for of in cold.values()]
    bounds = [statistics.mean(shares[BOUND, name]) for name in counted]
    return [
        Figure("reward_cold_worst_set", min(means), ">=", GOAL_SET),
        Figure("reward_cold_mean", statistics.mean(means), ">=", GOAL_MEAN),
        Figure("reward_wrong_prior_worst_set", worst(WRONG), ">=", GOAL_SET),
        Figure("reward_min_any_b", min(min(of) for of in cold.values()), ">=", GOAL_CELL),
        Figure("ttl_decision_p99_s", decision_s, "<=", GOAL_DECISION_S),
        Figure("reward_changed_unnoticed_worst_set", worst(CHANGED)),
        Figure("reward_over_hindsight_worst_set", min(own / bound for own, bound in zip(means, bounds, strict=True))),
        Figure("sets_counted", len(counted)),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; 2 where a trace cannot be read."""
    args_parser = parser("retention", __doc__ or "")
    args_parser.add_argument("--trace", type=Path, nargs="+", default=[], help="workflow traces; else synthetic sets")
    args_parser.add_argument("--programs", choices=("unseen", "tuning", "all"), default="unseen")
    args = args_parser.parse_args(argv)
    at_start = conditions(args.seed, args.quick, [path for path in args.trace if path.exists()])
    try:
        programs = read(args.trace) if args.trace else generate(args.seed)
    except TraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    everything: dict[str, list[Program]] = defaultdict(list)
    for program in programs:
        everything[program.collection].append(program)
    wanted = {"unseen": (True,), "tuning": (False,), "all": (True, False)}[args.programs]
    sets = {name: half for name, of in everything.items() if (half := [p for p in of if p.measured in wanted])}
    if not sets:
        print("error: no program of the traces pauses for a tool", file=sys.stderr)
        return 2
    seeds = [args.seed * 1000 + one for one in range(1 if args.quick else 5)]
    shares = compare(sets, everything, seeds)
    counted = counting(shares, sets)
    table(args.programs, [name if name in counted else f"({name})" for name in sets], list(sets), shares)
    speed = [
        decision_seconds(2_000 if args.quick else 10_000, 10_000, args.seed + one)
        for one in range(1 if args.quick else 5)
    ]
    detail = {
        "method": METHOD.format(programs=args.programs, goal=GOAL_SET),
        "sets": {
            name: {
                "programs": len(of),
                "counts_in_the_goals": name in counted,
                "pauses": sum(len(program.pauses) for program in of),
            }
            for name, of in sets.items()
        },
        "saved_s": SAVED_S,
        "orders": seeds,
        "shares": {name: {rule: of for (rule, one), of in shares.items() if one == name} for name in sets},
        "speed_by_round": speed,
    }
    decision_s = statistics.median(one["ttl_p99_s"] for one in speed)
    finish("retention", figures_of(counted, shares, decision_s), args=args, at_start=at_start, detail=detail)
    return 0


if __name__ == "__main__":
    sys.exit(main())
