"""Errors of the engine pool, as `EngineError`s so that a call can carry them like any fault of an engine."""

from __future__ import annotations

from engine.protocol import EngineError


class NoEngine(EngineError):
    """The server runs without a model."""

    name = "no_engine"


class UnknownModel(EngineError):
    """No engine serves the model that the call names."""

    name = "unknown_model"


class EngineNotReady(EngineError):
    """The engine did not become ready in time, or is being closed."""

    name = "engine_not_ready"
    retryable = True
