"""What was learned of a workflow's stages from calls that ended: seconds and output tokens. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque


class _Window:
    """The last `size` samples, also kept sorted, so that any quantile is one look-up."""

    __slots__ = ("_arrival", "_size", "_sorted", "_sum")

    def __init__(self, size: int) -> None:
        self._size = size
        self._arrival: deque[float] = deque()
        self._sorted: list[float] = []
        self._sum = 0.0

    def add(self, sample: float) -> None:
        if len(self._arrival) == self._size:
            oldest = self._arrival.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
            self._sum -= oldest
        self._arrival.append(sample)
        insort(self._sorted, sample)
        self._sum += sample

    def mean(self) -> float:
        return self._sum / len(self._arrival)

    def quantile(self, q: float) -> float:
        return self._sorted[min(len(self._sorted) - 1, int(q * len(self._sorted)))]


class StageStatistics:
    """Sliding windows of the seconds and output tokens of each (workflow, stage).

    Bounded: at most `stages` keys are kept, the least recently learned one is forgotten first, and `window`
    samples of each, so that a workflow whose prompts changed is soon known by its new ways.
    """

    def __init__(self, *, window: int = 128, stages: int = 10_000) -> None:
        self._window = window
        self._stages = stages
        self._seconds: OrderedDict[tuple[str, str], _Window] = OrderedDict()
        self._tokens: OrderedDict[tuple[str, str], _Window] = OrderedDict()

    def learn(self, workflow: str, stage: str, *, seconds: float, output_tokens: int | None = None) -> None:
        """A call of this stage ended after `seconds` of work; `output_tokens` for generations."""
        self._of(self._seconds, (workflow, stage)).add(seconds)
        if output_tokens is not None:
            self._of(self._tokens, (workflow, stage)).add(float(output_tokens))

    def seconds(self, workflow: str, stage: str) -> float | None:
        """Mean seconds of work of the stage's calls; None if none has ended."""
        window = self._seconds.get((workflow, stage))
        return window.mean() if window is not None else None

    def output_tokens(self, workflow: str, stage: str, quantile: float = 0.5) -> int:
        """The `quantile` (0..1) of the stage's output lengths; 0 if none is known."""
        window = self._tokens.get((workflow, stage))
        return round(window.quantile(quantile)) if window is not None else 0

    def _of(self, windows: OrderedDict[tuple[str, str], _Window], key: tuple[str, str]) -> _Window:
        window = windows.get(key)
        if window is None:
            window = windows[key] = _Window(self._window)
            if len(windows) > self._stages:
                windows.popitem(last=False)
        else:
            windows.move_to_end(key)
        return window
