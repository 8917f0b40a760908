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
from orchestrator.tools import ToolRun
from orchestrator.tools.partial import PartialRun
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
        self._tools = services.tools
        self._begun: dict[str, PartialRun] = {}
        known = services.tools.specs(program.tenant, program.toolset)
        self._partial = {name for name in options.tools if name in known and known[name].partial}
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
        self._new: dict[int, tuple[FunctionCall, PlannedCall | EmittedCall]] = {}  # not declared yet, by number
        self._join: PlannedJoin | None = None

    def feed(self, text: str) -> None:
        """The next piece of the text: what it completes joins the program at once."""
        self._text.append(text)
        for event in self._parser.feed(text):
            self._take(event)
        self._chars += len(text)
        if self._early:
            self._declare()
            self._begin_open()

    def close(self) -> PlanOutcome:
        """The text is complete: what became of it."""
        for event in self._parser.close():
            self._take(event)
        self._declare()
        self._drop_begun()
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

    def _begin_open(self) -> None:
        """Let the tool of the open call begin on what is written of its argument, if it asks for that."""
        if not self._partial or not isinstance(self._parser, PlanParser):
            return
        opened = self._parser.open_text()
        if opened is None or opened.tool not in self._partial:
            return
        id = f"{self._id}-{opened.id}"
        begun = self._begun.get(id)
        if begun is None and id not in self._program.calls:
            made = self._compiler.partial(opened)
            if made is None:
                return
            name, arguments = made
            run = ToolRun(
                program=self._program.id,
                call=id,
                tool=opened.tool,
                tenant=self._program.tenant,
                toolset=self._program.toolset or "",
                arguments=arguments,
                attempt=1,
            )
            begun = self._tools.begin(run, name)
            if begun is not None:
                self._begun[id] = begun
        if begun is not None and self._compiler.name_of_open(opened) == begun.name:
            begun.feed(opened.text)

    def _drop_begun(self) -> None:
        """What was begun for calls that did not come ends."""
        for id in self._begun:
            if id not in self._program.calls:
                self._tools.partial.drop(self._program.id, id)

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
        """Compile a call, to join the program with the others of its piece; what forbids that is a fault."""
        number = event.id if isinstance(event, PlannedCall) else self._next + event.index
        id = f"{self._id}-{number}"
        try:
            call = (
                self._compiler.compile(event, id)
                if isinstance(event, PlannedCall)
                else self._compiler.compile_emitted(event, id)
            )
        except CallFault as fault:
            span = event.span
            if fault.argument is not None and isinstance(event, PlannedCall):
                span = event.arguments[fault.argument].span
            self._fault(fault.code, span, fault.message, fault.fix, number)
            return
        earlier = self._program.calls.get(id)
        if earlier is not None and not _same(earlier.call, call):
            earlier, call = None, call.model_copy(update={"id": f"{id}-r{self._attempt}"})
        if earlier is None:
            self._new[number] = (call, event)
        self._variables[number] = call.variable
        thought = event.thought if isinstance(event, PlannedCall) else None
        self._calls.append(PlannedCallView(number=number, tool=call.tool, variable=call.variable, thought=thought))

    def _declare(self) -> None:
        """Let the new calls join the program: together, and one by one if one of them is not fit."""
        new, self._new = self._new, {}
        if not new:
            return
        try:
            self._grow([call for call, _ in new.values()])
        except (InvalidGraph, RuntimeFault):
            for number, (call, event) in new.items():
                try:
                    self._grow([call])
                except (InvalidGraph, RuntimeFault) as fault:
                    self._refuse(number, event, fault)

    def _grow(self, calls: list[FunctionCall]) -> None:
        extension = GraphExtension.model_construct(inputs={}, calls=tuple(calls), outputs=(), seal=False, result=None)
        self._program.host.grow(self._program, extension)

    def _refuse(self, number: int, event: PlannedCall | EmittedCall, fault: InvalidGraph | RuntimeFault) -> None:
        """A call that was compiled cannot join the program, nor what refers to it."""
        del self._variables[number]
        self._calls = [view for view in self._calls if view.number != number]
        if isinstance(fault, RuntimeFault):
            self._fault(fault.name, event.span, fault.detail, "plan fewer calls, or try again later", number)
            return
        for diagnostic in fault.diagnostics:
            span = self._span_of(event, argument_of(diagnostic))
            code, fix = diagnostic.code, diagnostic.fix
            if code == "unknown_variable":  # of a call that was refused just now
                code, fix = "unknown_reference", "mend the call that it refers to, and give both again"
            self._fault(code, span, diagnostic.message, fix, number)

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
