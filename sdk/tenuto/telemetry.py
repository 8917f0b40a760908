"""The workflow's own span, and the trace context that joins it to the server's.

Owns the SDK's part of the OpenTelemetry GenAI conventions (`invoke_workflow`, `invoke_agent`). Records nothing unless
the user's process has an OpenTelemetry SDK.
"""

from __future__ import annotations

from typing import Self

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from tenuto.wire import ProgramSummary

_tracer = trace.get_tracer("tenuto")


class WorkflowSpan:
    """`invoke_workflow {name}`, or `invoke_agent {name}` for an agent's loop; current while the workflow runs."""

    def __init__(self, workflow: str, *, agent: bool = False) -> None:
        self._workflow = workflow
        self._kind = "agent" if agent else "workflow"
        self._span: Span = trace.INVALID_SPAN

    def __enter__(self) -> Self:
        operation = f"invoke_{self._kind}"
        attributes = {"gen_ai.operation.name": operation, f"gen_ai.{self._kind}.name": self._workflow}
        self._span = _tracer.start_span(f"{operation} {self._workflow}", kind=SpanKind.INTERNAL, attributes=attributes)
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None:
            self._span.set_attribute("error.type", kind.__qualname__)
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
        context.detach(self._token)
        self._span.end()

    def headers(self) -> dict[str, str]:
        """Trace context for the request that starts the program; empty without an OpenTelemetry SDK."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(self._span))
        return carrier

    def belongs(self, program: ProgramSummary) -> None:
        """The workflow is this program, or a part of it."""
        self._span.set_attribute("tenuto.program.id", program.id)
