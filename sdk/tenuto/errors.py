"""Every exception that the SDK raises. Owns their names and what they carry; never decides when to raise one."""

from __future__ import annotations

from collections.abc import Sequence

from tenuto.wire import ErrorValue, FieldError, Problem


class TenutoError(Exception):
    """Base of all of them."""


class DefinitionError(TenutoError, TypeError):
    """A faulty `@llm`, `@tool` or `@workflow`: raised while the module is imported, before anything runs."""


class InvalidArgument(TenutoError, TypeError):
    """An argument or option that does not fit its declared type, or that JSON cannot hold."""


class InvalidResult(TenutoError, ValueError):
    """A value that does not fit the type that its function or workflow declares."""


class OutsideWorkflow(TenutoError, RuntimeError):
    """An `@llm` or `@tool` function was called where no program is being built."""


class ForeignVar(TenutoError, RuntimeError):
    """A `Var` was used in a program, or in a thread, other than its own."""


class NoClient(TenutoError, RuntimeError):
    """A workflow was run without a client, or with one of the other kind (sync, async) or of another event loop."""


class RunningLoop(TenutoError, RuntimeError):
    """A blocking method was called inside a running event loop. The message names its async twin."""


class CallFailed(TenutoError):
    """A call of the program has no value and never will. Raised at the `await` of its `Var`.

    `type` is a name that the docs explain (`tool_error`, `timeout`, `output_invalid`, ...); `call` is the call at
    fault, which for a skipped call is the ancestor that failed; `attempts` is how often it was tried.
    """

    def __init__(self, type: str, message: str, call: str, attempts: int = 0, program: str | None = None) -> None:
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"{call}: {type}{tried}: {message}")
        self.type = type
        self.message = message
        self.call = call
        self.attempts = attempts
        self.program = program

    @classmethod
    def of(cls, error: ErrorValue | None, call: str, program: str | None) -> CallFailed:
        """From the wire's error of `call`."""
        if error is None:
            return cls("unknown", "the server gave no reason", call, 0, program)
        return cls(error.type, error.message, error.call or call, error.attempts, program)


class NoneSucceeded(TenutoError):
    """`first` found no call that succeeded (and was accepted); `errors` holds the failures in the order given."""

    def __init__(self, message: str, errors: Sequence[CallFailed] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class ProgramCancelled(TenutoError):
    """The program was cancelled on the server (by another client, or at shutdown) while it was awaited."""

    def __init__(self, program: str) -> None:
        super().__init__(f"program {program} was cancelled on the server")
        self.program = program


class ConnectionLost(TenutoError, ConnectionError):
    """The server cannot be reached, also after retries."""


class ProtocolMismatch(TenutoError):
    """The server said something that this SDK does not understand: they are of different versions."""


class ServerNotInstalled(TenutoError, RuntimeError):
    """`local()` needs the server, and only the SDK is installed."""


class ServerStartError(TenutoError, RuntimeError):
    """The private server of `local()` did not start; the message shows what it wrote."""


class RealEngineCall(TenutoError, RuntimeError):
    """Inside `testing.no_real_engine()` an LLM call was about to reach a real engine."""


class APIError(TenutoError):
    """The server refused a request with a problem document (RFC 9457), kept as `problem`."""

    def __init__(self, problem: Problem, retry_after_s: float | None = None) -> None:
        lines = [f"{problem.title} ({problem.status}): {problem.detail}"]
        lines += [f"  at {e.pointer or '/'}: {e.message}" + (f" — {e.fix}" if e.fix else "") for e in problem.errors]
        super().__init__("\n".join(lines))
        self.problem = problem
        self.retry_after_s = retry_after_s

    @property
    def name(self) -> str:
        """The problem's name: the last part of its `type`."""
        return self.problem.type.rpartition(":")[2]

    @property
    def status(self) -> int:
        return self.problem.status

    @property
    def errors(self) -> tuple[FieldError, ...]:
        """The located faults of the request body."""
        return self.problem.errors

    @property
    def retryable(self) -> bool:
        return self.problem.retryable


class RequestInvalid(APIError):
    """400 or 422: `errors` says where, what and what to do."""


class Unauthorized(APIError):
    """401 or 403: the API key is missing, unknown or lacks the right."""


class NotFound(APIError):
    """404."""


class Conflict(APIError):
    """409, such as an extension of a program that has ended."""


class TooLarge(APIError):
    """413: a limit of the server on sizes or counts."""


class Busy(APIError):
    """429: the server's queue is full, also after retries; `retry_after_s` is its advice."""


class Unavailable(APIError):
    """503: the server is up but cannot serve now, also after retries."""


class ServerFault(APIError):
    """Any other 5xx."""


_BY_STATUS: dict[int, type[APIError]] = {
    400: RequestInvalid,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: RequestInvalid,
    429: Busy,
    503: Unavailable,
}


def api_error(problem: Problem, retry_after_s: float | None = None) -> APIError:
    """The exception class for the problem's status."""
    fallback = ServerFault if problem.status >= 500 else APIError
    return _BY_STATUS.get(problem.status, fallback)(problem, retry_after_s)
