"""Every bound of the server in one place: counts, bytes and waits. Never reads configuration itself."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dag.limits import GraphLimits


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one server. Each has a typed error that names it; reaching one harms nothing else.

    Raises ValueError, naming the field, if a bound is not positive.
    """

    # what one request may carry
    submission_bytes: int = 32 * 2**20
    prompt_bytes: int = 4 * 2**20  # one rendered prompt
    value_bytes: int = 8 * 2**20  # one variable's value, as JSON
    inline_bytes: int = 256 * 2**10  # a value beyond it is shown by reference, and sent to who asks for it
    calls_per_program: int = 100_000
    page: int = 100

    # what the server holds at once
    live_programs: int = 20_000
    live_calls: int = 200_000  # calls of live programs
    ended_programs: int = 1_000  # kept in memory after their end
    ended_bytes: int = 256 * 2**20  # values of ended programs kept in memory
    journal_programs: int = 100_000  # ended programs kept in the journal
    engine_calls: int = 1_024  # given to one engine at once, the others are held back in the policy's order
    token_events: int = 2_048  # kept per live program for readers that come back
    workers: int = 10_000
    workflows: int = 1_000  # registered by one tenant
    functions: int = 8_192  # function calls at once on the whole server
    tenant_functions: int = 4_096
    program_functions: int = 1_024
    speculations: int = 64  # `read` calls run ahead for tools that ask for it
    tool_cache_bytes: int = 64 * 2**20  # results of `read` tools that are given again

    # how long something is waited for, in seconds
    variable_wait_s: float = 300.0
    worker_wait_s: float = 30.0  # a function call without a worker
    function_s: float = 7_200.0  # one attempt of a tool that declares no timeout
    worker_attach_s: float = 15.0  # a registered worker that does not open its task stream
    open_idle_s: float = 86_400.0  # an open program that nobody extends and in which nothing runs
    session_idle_s: float = 900.0  # a program of a stock OpenAI client, between two of its requests
    heartbeat_s: float = 15.0
    cancel_wait_s: float = 5.0  # engines and workers that are told to stop
    retry_after_s: float = 1.0

    # how often a call is run again through no fault of its own
    lost_reruns: int = 5  # its engine or worker died

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"limits.{field.name} must be positive, not {getattr(self, field.name)}")
        if self.lost_reruns > 100:
            raise ValueError(f"limits.lost_reruns must be at most 100, not {self.lost_reruns}")

    def graph(self) -> GraphLimits:
        """The part of the limits that graph validation holds."""
        return GraphLimits(
            max_calls=self.calls_per_program, max_inputs=self.calls_per_program, max_prompt_chars=self.prompt_bytes
        )
