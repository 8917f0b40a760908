"""What was learned of a workflow's stages from calls that ended: seconds and output tokens. Pure."""

from __future__ import annotations

from collections import OrderedDict

from orchestrator.scheduling.learned import Sample
from tenuto.wire import Call, FunctionCall


def stage_of(call: Call) -> str:
    """The name under which a call's workflow learns of it: its stage, else its tool, else nothing."""
    return call.stage or (call.tool if isinstance(call, FunctionCall) else "")


class StageStatistics:
    """Sliding windows of the seconds and output tokens of each (workflow, stage).

    Bounded: at most `stages` keys are kept, the least recently learned one is forgotten first, and `window`
    samples of each, so that a workflow whose prompts changed is soon known by its new ways.
    """

    def __init__(self, *, window: int = 128, stages: int = 10_000) -> None:
        self._window = window
        self._stages = stages
        self._seconds: OrderedDict[tuple[str, str], Sample] = OrderedDict()
        self._tokens: OrderedDict[tuple[str, str], Sample] = OrderedDict()

    def learn(self, workflow: str, call: Call, *, seconds: float, output_tokens: int | None = None) -> None:
        """A call ended well after `seconds` of work; `output_tokens` for generations."""
        stage = stage_of(call)
        self._of(self._seconds, (workflow, stage)).add(seconds)
        if output_tokens is not None:
            self._of(self._tokens, (workflow, stage)).add(float(output_tokens))

    def seconds(self, workflow: str, call: Call) -> float | None:
        """Expected seconds of work: the mean of the call's stage, else the call's own hint, else None."""
        window = self._seconds.get((workflow, stage_of(call)))
        return window.average if window is not None else call.expected_s

    def output_tokens(self, workflow: str, call: Call, quantile: float = 0.5) -> int:
        """Expected output length: the `quantile` (0..1) of the call's stage; 0 if none is known."""
        window = self._tokens.get((workflow, stage_of(call)))
        return round(window.quantile(quantile)) if window is not None else 0

    def _of(self, windows: OrderedDict[tuple[str, str], Sample], key: tuple[str, str]) -> Sample:
        window = windows.get(key)
        if window is None:
            window = windows[key] = Sample(self._window)
            if len(windows) > self._stages:
                windows.popitem(last=False)
        else:
            windows.move_to_end(key)
        return window
