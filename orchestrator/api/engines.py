"""Routes of models and engines: what can generate, and what each engine is doing."""

import dataclasses

from fastapi import APIRouter, Request, Response

from engine.protocol import Capabilities
from orchestrator.api.openapi import problems, returns
from orchestrator.api.parts import answer, parts_of, tenant
from orchestrator.api.views import LeaseList, LeasesView, LeaseView
from orchestrator.engines import EngineState
from orchestrator.retention import EngineLeases, PausedChain, Retention
from tenuto.wire import CapabilitiesView, EngineList, EngineView, ModelList, ModelView

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


@router.get("/leases", summary="List leases", responses={**returns(LeaseList), **problems()})
async def leases(request: Request) -> Response:
    """What is kept of paused programs' KV, engine by engine: the tenant's own leases, and how all ended so far."""
    retention = parts_of(request).runtime.retention
    own = tenant(request)
    return answer(LeaseList(data=tuple(_leases(retention, books, own) for books in retention.snapshot())))


def _leases(retention: Retention, books: EngineLeases, own: str) -> LeasesView:
    counters, now = books.counters, retention.now()
    return LeasesView(
        engine=books.engine,
        rule=retention.rule.name,
        tokens={tier.value: tokens for tier, tokens in books.leased_tokens.items()},
        ended={outcome.value: count for outcome, count in counters.ended.items()},
        refused=counters.refused,
        demoted=counters.demoted,
        token_seconds={tier.value: held for tier, held in counters.byte_seconds.items()},
        unused_token_seconds={tier.value: held for tier, held in counters.wasted_byte_seconds.items()},
        price=books.price,
        leases=tuple(_lease(chain, now) for chain in books.chains if chain.tenant == own),
    )


def _lease(chain: PausedChain, now: float) -> LeaseView:
    return LeaseView(
        program=chain.program,
        call=chain.call,
        tier=chain.tier.value,
        tokens=chain.tokens,
        shared_tokens=chain.shared_tokens,
        ends_in_s=None if chain.returned else max(0.0, chain.until - now),
        remaining_s=chain.remaining_s,
        recompute_s=chain.recompute_s,
    )


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
