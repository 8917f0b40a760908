"""What a timeline knows beyond seconds, in sentences: behind whom a call queued, what had to be read again and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orchestrator.telemetry.timelines.causes import seconds
from tenuto.wire import Timeline, TimelineCall

_WHY: Final = {
    "unleased": "nothing had kept them",
    "expired": "their lease had ended before",
    "pressure": "their lease was broken for calls that needed the memory more",
    "preempted": "it had to give way to more urgent calls",
}


def notes(timeline: Timeline, most: int = 8) -> list[str]:
    """At most so many sentences, those about the most seconds first; waits of less than a hundredth go unmentioned."""
    told = [(note, note.seconds(call), text) for call in timeline.calls for note in _NOTES if (text := note.text(call))]
    found = [(s, text) for note, s, text in told if note.cause != "queue" or s >= 0.01 * timeline.seconds]
    found.sort(key=lambda one: -one[0])
    return [text for _, text in found[:most]]


def of_call(call: TimelineCall) -> list[str]:
    """Everything that there is to say of one call."""
    return [text for note in _NOTES if (text := note.text(call))]


def _queued(call: TimelineCall) -> str:
    waited_s = _seconds(call, "queue")
    if not call.behind or waited_s <= 0:
        return ""
    return f"{call.id} queued {seconds(waited_s)} behind {', '.join(call.behind)}"


def _read_again(call: TimelineCall) -> str:
    again = call.recompute
    if again is None:
        return ""
    left = f" that {again.left_by} had left" if again.left_by is not None else ""
    return f"{call.id} read {again.tokens} tokens again{left}: {_WHY[again.why]}"


def _answered(call: TimelineCall) -> str:
    hit = call.cache
    if hit is None:
        return ""
    return (
        f"{call.id} came from the cache ({hit.tier}, {hit.category}, similarity {hit.similarity:.2f}): "
        f"{seconds(hit.saved_s)} saved"
    )


def _seconds(call: TimelineCall, cause: str) -> float:
    return sum(span.end_s - span.start_s for span in call.spans if span.cause == cause)


class _Note:
    """A kind of sentence, and the cause of the seconds that it is about."""

    def __init__(self, cause: str, text: Callable[[TimelineCall], str]) -> None:
        self.cause = cause
        self.text = text

    def seconds(self, call: TimelineCall) -> float:
        return _seconds(call, self.cause)


_NOTES: Final = (_Note("queue", _queued), _Note("recompute", _read_again), _Note("cache", _answered))
