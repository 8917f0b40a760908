"""Why one attempt of a call gave no value, and the names of the reasons."""

from __future__ import annotations

from enum import StrEnum

from tenuto.wire import ErrorValue


class FailureType(StrEnum):
    """Names that the server itself gives to failures; engines and tools add their own (`EngineError.name`, and what a
    worker reports)."""

    # the program
    CANCELLED = "cancelled"  # somebody cancelled it
    ABANDONED = "abandoned"  # it was left open and unused
    SKIPPED = "skipped"  # a call that this one needs has failed

    # any call
    TIMEOUT = "timeout"  # it had not ended when its `timeout_s` was over
    PATH_MISSING = "path_missing"  # a reference's path leads nowhere in the value that was written
    INTERNAL_ERROR = "internal_error"  # a fault of the server: its log has it

    # LLM calls
    PROMPT_TOO_LARGE = "prompt_too_large"  # the rendered prompt exceeds `limits.prompt_bytes`
    OUTPUT_INVALID = "output_invalid"  # the text is not the JSON that was asked for
    OUTPUT_TOO_LARGE = "output_too_large"  # the text exceeds `limits.value_bytes`
    CONSTRAINT_UNSUPPORTED = "constraint_unsupported"  # the engine cannot hold the output to it
    LOGPROBS_UNSUPPORTED = "logprobs_unsupported"  # the engine does not tell them
    ENGINE_ABORTED = "engine_aborted"  # the engine gave up
    MODEL_ANSWER_INVALID = "model_answer_invalid"  # a hosted model answered with no text

    # function calls
    QUEUE_TIMEOUT = "queue_timeout"  # it found no room to start within its tool's `queue_timeout_s`
    NO_WORKER = "no_worker"  # no worker that has the tool came within `limits.worker_wait_s`
    WORKER_LOST = "worker_lost"  # the worker went while it ran the call, and the effect forbids another run
    EFFECT_UNKNOWN = "effect_unknown"  # the server stopped while the call ran, and the effect forbids another run
    RESULT_INVALID = "result_invalid"  # the result is not JSON, or not of the call's type
    RESULT_TOO_LARGE = "result_too_large"  # the result exceeds `limits.value_bytes`


class CallFailure(Exception):
    """One attempt failed. `type` is a `FailureType`, or a name given by an engine or a tool.

    `retryable`: another attempt, of those that the call's `retry` allows, may succeed.
    `lost`: the engine or worker died under the call; it may be run again beyond its attempts if its effect allows.
    """

    def __init__(self, type: str, message: str, *, retryable: bool = False, lost: bool = False) -> None:
        super().__init__(message)
        self.type = str(type)
        self.message = message
        self.retryable = retryable
        self.lost = lost

    def error(self, call: str, attempts: int) -> ErrorValue:
        """The failure as the protocol shows it."""
        return ErrorValue(type=self.type, message=self.message, call=call, attempts=attempts)
