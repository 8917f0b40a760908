"""A server whose model says what a test tells it to, and OpenAI's own client against it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import httpx2
import openai

from engine.protocol import Capabilities, FinishReason, GenerateRequest, ModelInfo, TokenChunk, TokenLogprob, Usage
from orchestrator.app import assemble, create_app
from orchestrator.config import Settings
from orchestrator.virtual_time import VirtualClock
from tests.orchestrator.api.support import Client, EchoEngine, Server

Say = Callable[[GenerateRequest], str]


class SayingEngine(EchoEngine):
    """Answers as `say` does, word by word, `word_s` seconds each; tells log probabilities if asked; keeps requests."""

    name = "echo"

    def __init__(self, say: Say, word_s: float = 0.0) -> None:
        super().__init__(word_s)
        self.say = say
        self.asked: list[GenerateRequest] = []
        self.capabilities = Capabilities(grammar=True, logprobs=True)
        self.finish = FinishReason.STOP

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        self.asked.append(request)
        self.running.add(request.id)
        words = self.say(request).split(" ")
        try:
            for index, word in enumerate(words[: request.sampling.max_tokens]):
                if self.word_s:
                    await asyncio.sleep(self.word_s)
                text = word if index == 0 else " " + word
                tokens: tuple[TokenLogprob, ...] = ()
                if (most := request.sampling.logprobs) >= 0:
                    top = tuple(TokenLogprob(rank, f"t{rank}", -1.0 - rank) for rank in range(most))
                    tokens = (TokenLogprob(index, text, -0.5, top),)
                yield TokenChunk(text, (index,), logprobs=tokens)
            finish = FinishReason.LENGTH if len(words) > request.sampling.max_tokens else self.finish
            usage = Usage(7, 3, min(len(words), request.sampling.max_tokens), 0.0, 0.0, 0.0)
            yield TokenChunk("", (), finish, usage)
        finally:
            self.running.discard(request.id)


def says(*answers: str) -> Say:
    """These answers in a row, the last one from then on."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


class Stock(Server):
    """A server, with OpenAI's client for it."""

    engine: SayingEngine
    openai: openai.AsyncOpenAI


@asynccontextmanager
async def stock(
    say: Say | Sequence[str],
    *,
    word_s: float = 0.0,
    settings: Settings | None = None,
    api_key: str = "none",
    model: str = "echo",
) -> AsyncIterator[Stock]:
    """A server in this process, in virtual time."""
    engine = SayingEngine(say if callable(say) else says(*say), word_s)
    engine.name, engine.model = model, ModelInfo(model, context_tokens=1 << 20, vocab_size=256)
    make = partial(assemble, clock=VirtualClock(), engines=[engine], rng=Random(7))
    app = create_app(settings or Settings(), assemble=make)
    async with app.router.lifespan_context(app):
        server = Stock(app, Client(app), engine)
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport) as http:
            server.openai = openai.AsyncOpenAI(
                base_url="http://house/v1", api_key=api_key, http_client=http, max_retries=0
            )
            yield server
