"""Test doubles, part of the product: models that need no engine, a transport that needs no network, a server without
an engine, and a guard that refuses real ones."""

from tenuto.doubles import no_real_engine
from tenuto.testing.models import (
    Answer,
    EchoModel,
    EngineModel,
    ModelDouble,
    NoisyModel,
    RecordedModel,
    ScriptedModel,
    override,
)
from tenuto.testing.schema import minimal_value
from tenuto.testing.server import server
from tenuto.testing.transport import ASGITransport
from tenuto.wire import ModelTask

__all__ = [
    "ASGITransport",
    "Answer",
    "EchoModel",
    "EngineModel",
    "ModelDouble",
    "ModelTask",
    "NoisyModel",
    "RecordedModel",
    "ScriptedModel",
    "minimal_value",
    "no_real_engine",
    "override",
    "server",
]
