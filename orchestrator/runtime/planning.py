"""A planning LLM call while it decodes: its text becomes calls of the program, each when its parenthesis closes.

Owns the way from one attempt's text to the graph. Never runs a call: a declared one starts when its inputs are there.
"""

from __future__ import annotations

from dag.diagnostics import InvalidGraph
from dag.plan import (
    CallFault,
    EmittedCall,
    PlanCompiler,
    PlanDiagnostic,
    PlannedCall,
    PlannedJoin,
    PlanParser,
    Span,
    ToolCallParser,
    argument_of,
)
from orchestrator.errors import RuntimeFault
from orchestrator.runtime.calls import CallRun
from orchestrator.runtime.program import Program
from orchestrator.runtime.services import Services
from tenuto.wire import (
    FunctionCall,
    GraphExtension,
    LLMCall,
    PlanFault,
    PlannedCallView,
    PlanOptions,
    PlanOutcome,
)


class PlanStream:
    """One attempt of one planning call. `feed` its text as it comes, `close` it at the end.

    A call that an earlier attempt made already is taken as it is if it is the same, with the result that it may have;
    another one under its number gets a name of its own. So a planner may be run again and no effect happens twice.
    """

    def __init__(self, services: Services, program: Program, run: CallRun, call: LLMCall, options: PlanOptions) -> None:
        self._program = program
        self._id = call.id
        self._attempt = program.attempt(run)
        self._early = options.early
        known = services.tools.specs(program.tenant, program.toolset)
        self._variables = dict(options.earlier)
        self._compiler = PlanCompiler({name: known[name] for name in options.tools if name in known}, self._variables)
        self._parser: PlanParser | ToolCallParser = (
            PlanParser(earlier=options.earlier) if options.format == "plan" else ToolCallParser()
        )
        self._next = max(options.earlier, default=0) + 1  # numbers of emitted calls go on after the earlier ones
        self._text: list[str] = []
        self._chars = 0
        self._calls: list[PlannedCallView] = []
        self._closed_at: list[int] = []  # characters that had come when each call closed
        self._faults: list[PlanFault] = []
        self._held: list[FunctionCall] = []  # until the end, if nothing is to start early
        self._join: PlannedJoin | None = None

    def feed(self, text: str) -> None:
        """The next piece of the text: what it completes joins the program at once."""
        self._text.append(text)
        for event in self._parser.feed(text):
            self._take(event)
        self._chars += len(text)

    def close(self) -> PlanOutcome:
        """The text is complete: what became of it."""
        for event in self._parser.close():
            self._take(event)
        self._let_go()
        most = max(1, self._chars)
        return PlanOutcome(
            text="".join(self._text),
            calls=tuple(self._calls),
            join=self._join.waits_for if self._join is not None else None,
            joined=self._join is not None,
            faults=tuple(self._faults),
            first_close=self._closed_at[0] / most if self._closed_at else 1.0,
            last_close=self._closed_at[-1] / most if self._closed_at else 1.0,
        )

    def _let_go(self) -> None:
        """Declare what was held back: all at once, as it is all there."""
        held, self._held = self._held, []
        for call in held:
            try:
                self._declare(call)
            except InvalidGraph as fault:
                number = int(call.id.removeprefix(f"{self._id}.").partition(".")[0])
                self._calls = [view for view in self._calls if view.number != number]
                for diagnostic in fault.diagnostics:
                    self._fault(diagnostic.code, Span(0, 0), diagnostic.message, diagnostic.fix, number)

    def _take(self, event: PlannedCall | PlannedJoin | EmittedCall | PlanDiagnostic) -> None:
        if isinstance(event, PlanDiagnostic):
            self._faults.append(
                PlanFault(
                    code=event.code,
                    severity=event.severity,
                    line=event.line,
                    column=event.column,
                    message=event.message,
                    fix=event.fix,
                    number=event.call,
                )
            )
        elif isinstance(event, PlannedJoin):
            self._join = event
        else:
            self._closed_at.append(event.span.end)
            self._call(event)

    def _call(self, event: PlannedCall | EmittedCall) -> None:
        """Compile a call and let it join the program; what forbids that is a fault at its place."""
        number = event.id if isinstance(event, PlannedCall) else self._next + event.index
        try:
            call = self._made(event, number)
        except CallFault as fault:
            span = event.span
            if fault.argument is not None and isinstance(event, PlannedCall):
                span = event.arguments[fault.argument].span
            self._fault(fault.code, span, fault.message, fault.fix, number)
            return
        except InvalidGraph as fault:
            for diagnostic in fault.diagnostics:
                span = self._span_of(event, argument_of(diagnostic))
                self._fault(diagnostic.code, span, diagnostic.message, diagnostic.fix, number)
            return
        except RuntimeFault as fault:
            self._fault(fault.name, event.span, fault.detail, "plan fewer calls, or try again later", number)
            return
        self._variables[number] = call.variable
        thought = event.thought if isinstance(event, PlannedCall) else None
        self._calls.append(PlannedCallView(number=number, tool=call.tool, variable=call.variable, thought=thought))

    def _made(self, event: PlannedCall | EmittedCall, number: int) -> FunctionCall:
        """The call, in the program or held back for the end."""
        id = f"{self._id}.{number}"
        call = (
            self._compiler.compile(event, id)
            if isinstance(event, PlannedCall)
            else self._compiler.compile_emitted(event, id)
        )
        earlier = self._program.calls.get(id)
        if earlier is not None:
            if _same(earlier.call, call):
                return call
            call = call.model_copy(update={"id": f"{id}.r{self._attempt}"})
        if self._early:
            self._declare(call)
        else:
            self._held.append(call)
        return call

    def _declare(self, call: FunctionCall) -> None:
        self._program.host.grow(
            self._program, GraphExtension.model_construct(inputs={}, calls=(call,), outputs=(), seal=False, result=None)
        )

    @staticmethod
    def _span_of(event: PlannedCall | EmittedCall, argument: str | None) -> Span:
        """Where an argument was written, if it was written by name; else the call."""
        if isinstance(event, PlannedCall):
            return next((a.span for a in event.arguments if a.name == argument), event.span)
        return event.span

    def _fault(self, code: str, span: Span, message: str, fix: str, number: int) -> None:
        before = "".join(self._text)[: span.start]
        line = before.count("\n") + 1
        column = span.start - (before.rfind("\n") + 1) + 1
        self._faults.append(
            PlanFault(code=code, severity="error", line=line, column=column, message=message, fix=fix, number=number)
        )


def _same(earlier: object, call: FunctionCall) -> bool:
    return isinstance(earlier, FunctionCall) and earlier.tool == call.tool and earlier.arguments == call.arguments
