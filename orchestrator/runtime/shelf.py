"""Which programs are in memory: live ones, ended ones as far as there is room, and some recalled from the journal."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from orchestrator.limits import Limits
from orchestrator.runtime.program import Program

_RECALLED = 64
_WITH_TOKENS = 64


class Shelf:
    """Programs by id and by tenant, in the order of their ids, which is that of acceptance.

    Invariant: at most `ended_programs` ended ones are kept, with at most `ended_bytes` of values; the one that
    ended first goes first. The last few ended ones keep their token events, for readers that come late. Live
    programs are never dropped.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._programs: dict[str, Program] = {}
        self._tenants: dict[str, dict[str, Program]] = {}
        self._keys: dict[str, Program] = {}
        self._ended: OrderedDict[str, Program] = OrderedDict()
        self._ended_bytes = 0
        self._recalled: OrderedDict[str, Program] = OrderedDict()
        self._with_tokens: deque[Program] = deque()

    def put(self, program: Program) -> None:
        """Keep a live program."""
        self._programs[program.id] = program
        self._tenants.setdefault(program.tenant, {})[program.id] = program
        if program.key is not None:
            self._keys[program.key] = program

    def end(self, program: Program) -> None:
        """The program has ended: keep it while there is room."""
        self._ended[program.id] = program
        self._ended_bytes += program.bytes
        self._with_tokens.append(program)
        if len(self._with_tokens) > _WITH_TOKENS:
            self._with_tokens.popleft().log.drop_tokens()
        while len(self._ended) > self._limits.ended_programs or (
            self._ended_bytes > self._limits.ended_bytes and len(self._ended) > 1
        ):
            _, oldest = self._ended.popitem(last=False)
            self._drop(oldest)

    def _drop(self, program: Program) -> None:
        self._ended_bytes -= program.bytes
        del self._programs[program.id]
        of_tenant = self._tenants[program.tenant]
        del of_tenant[program.id]
        if not of_tenant:
            del self._tenants[program.tenant]
        if program.key is not None:
            del self._keys[program.key]

    def put_recalled(self, program: Program) -> None:
        """Keep an ended program of the journal for a while; it appears in no list."""
        self._recalled[program.id] = program
        if len(self._recalled) > _RECALLED:
            self._recalled.popitem(last=False)

    def get(self, id: str) -> Program | None:
        return self._programs.get(id) or self._recalled.get(id)

    def under_key(self, key: str) -> Program | None:
        """The program that was submitted under an idempotency key."""
        return self._keys.get(key)

    @property
    def live_count(self) -> int:
        return len(self._programs) - len(self._ended)

    def live(self) -> list[Program]:
        """Every program without an outcome."""
        return [program for program in self._programs.values() if program.outcome is None]

    def of_tenant(self, tenant: str, *, after: str | None, newest_first: bool) -> Iterator[Program]:
        """The tenant's programs beyond the id `after`, in the order asked for. `after` need not be kept any more."""
        programs = self._tenants.get(tenant, {})
        ordered = reversed(programs.values()) if newest_first else iter(programs.values())
        for program in ordered:
            if after is None or (program.id < after if newest_first else program.id > after):
                yield program
