"""How much of a program's prompts others have computed already: its shared prefix, known or expected. Pure."""

from __future__ import annotations

from orchestrator.scheduling.learned import Learned
from orchestrator.scheduling.statistics import stage_of
from tenuto.wire import Call


class Footprints:
    """Tokens of KV that live programs share with others, by program; and what new ones will share, by stage.

    What a program's first call found in an engine's cache was made by others; what later calls find is mostly its own.
    """

    def __init__(self) -> None:
        self._first = Learned(prior=0.0)
        self._programs: dict[str, int] = {}

    def began(self, program: str, workflow: str, call: Call, cached_tokens: int) -> None:
        """A call of the program has ended, having found so much. Only the first one counts."""
        if program not in self._programs:
            self._programs[program] = cached_tokens
            self._first.learn(workflow, float(cached_tokens), stage_of(call))

    def ended(self, program: str) -> None:
        """Forget a program."""
        self._programs.pop(program, None)

    def shared(self, program: str, workflow: str, call: Call) -> int:
        """What the program shares; before its first call has ended the median of such calls, 0 while there are few."""
        known = self._programs.get(program)
        return known if known is not None else int(self._first.quantile(workflow, 0.5, stage_of(call)) or 0.0)
