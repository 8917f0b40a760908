"""Routes for probes and monitors: is the process up, can it serve LLM calls, what has it done."""

from fastapi import APIRouter, Request, Response

from orchestrator.api.openapi import problems, returns
from orchestrator.api.parts import answer, parts_of
from orchestrator.api.problems import ModelNotServed, NotReady
from orchestrator.api.views import Health, Readiness
from orchestrator.engines import EngineStatus

router = APIRouter(tags=["health"])

_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/healthz", summary="Is the process up", responses={**returns(Health), **problems()})
async def healthz() -> Response:
    """Answers as long as the process does."""
    return answer(Health())


@router.get("/readyz", summary="Can calls be served", responses={**returns(Readiness), **problems(503)})
async def readyz(request: Request) -> Response:
    """Every configured engine has its model loaded, or none is configured. Otherwise 503, with the reason."""
    states = parts_of(request).engines.states()
    waiting = [state for state in states if state.status is not EngineStatus.READY]
    if waiting:
        detail = "; ".join(f"engine {state.name!r} is {state.status}: {state.reason}" for state in waiting)
        failed = any(state.status is EngineStatus.FAILED for state in waiting)
        raise ModelNotServed(detail) if failed else NotReady(detail)
    return answer(Readiness(models=tuple(state.name for state in states)))


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    responses={200: {"description": "the text exposition format", "content": {"text/plain": {}}}, **problems()},
)
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms of this server, of all tenants together."""
    return Response(parts_of(request).runtime.metrics.exposition(), media_type=_EXPOSITION)
