"""Routes of models and engines: what can generate, and what each engine is doing."""

import dataclasses

from fastapi import APIRouter, Request, Response

from engine.protocol import Capabilities
from orchestrator.api.openapi import problems, returns
from orchestrator.api.parts import answer, parts_of
from orchestrator.api.views import CapabilitiesView, EngineList, EngineView, ModelList, ModelView
from orchestrator.engines import EngineState

router = APIRouter(prefix="/v1", tags=["engines"])


@router.get("/models", summary="List models", responses={**returns(ModelList), **problems()})
async def models(request: Request) -> Response:
    """The models that calls may ask for, the default first."""
    parts = parts_of(request)
    default = parts.engines.default
    listed = tuple(
        ModelView(
            id=state.name,
            created=int(parts.started_at),
            default=state.name == default,
            status=state.status,
            context_tokens=state.model.context_tokens if state.model else None,
        )
        for state in parts.engines.states()
    )
    return answer(ModelList(data=listed))


@router.get("/engines", summary="List engines", responses={**returns(EngineList), **problems()})
async def engines(request: Request) -> Response:
    """Every engine: whether it serves, why not, how often it was restarted, what it can do."""
    return answer(EngineList(data=tuple(_view(state) for state in parts_of(request).engines.states())))


def _view(state: EngineState) -> EngineView:
    model = state.model
    return EngineView(
        name=state.name,
        status=state.status.value,
        restarts=state.restarts,
        reason=state.reason,
        model=model.name if model else None,
        vocab_size=model.vocab_size if model else None,
        kv_bytes_per_token=model.kv_bytes_per_token if model else None,
        capabilities=_capabilities(state.capabilities) if state.capabilities else None,
    )


def _capabilities(capabilities: Capabilities) -> CapabilitiesView:
    return CapabilitiesView(**dataclasses.asdict(capabilities))
