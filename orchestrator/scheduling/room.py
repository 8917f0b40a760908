"""How many calls an engine should have at once: fewer once it is past saturation, where more only slow each other down.

Owns the rule; pure. Additive increase, multiplicative decrease, as congestion control does it (Chiu and Jain, 1989).
"""

from __future__ import annotations

from engine.protocol import Usage

FLOOR = 40
"""Never fewer calls: below this an engine's decode steps are bound by reading the weights, and slots stay empty."""
SATURATED = 1024.0
"""An engine is past saturation once it could read this many prompt tokens in the time that an output token takes: then
nearly every step is full of prompts, and what decodes waits for those of others."""
_DECREASE = 0.9
_LEAST_PROMPT, _LEAST_OUTPUT = 512, 16
_FORGET = 1.001
"""The best reading speed is forgotten slowly: another model, or longer contexts, may never reach it again."""


class Room:
    """Calls that may be inside, judged by how they went.

    Between FLOOR and `limit`. Each ended call says how long its tokens took: below saturation there is room for one
    more, else for a tenth fewer than are inside now.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._read_s = 0.0  # a prompt token, at best
        self.calls = limit

    def ended(self, usage: Usage, inside: int) -> None:
        """A call ended well, `inside` calls being at the engine."""
        computed = usage.prompt_tokens - usage.cached_tokens
        if computed >= _LEAST_PROMPT and usage.prefill_s > 0:
            read_s = usage.prefill_s / computed
            self._read_s = min(read_s, self._read_s * _FORGET) if self._read_s else read_s
        if usage.output_tokens < _LEAST_OUTPUT or not self._read_s:
            return
        if usage.decode_s / usage.output_tokens > SATURATED * self._read_s:
            self.calls = min(self.calls, max(min(FLOOR, self._limit), int(inside * _DECREASE)))
        elif self.calls < self._limit:
            self.calls += 1
