"""What an engine and its client say to each other, and the frames that carry it over pipes.

Frames are pickled, so they go only between a parent and the child it started, never over a network.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass, field
from enum import StrEnum
from typing import BinaryIO

from engine.protocol import Capabilities, EngineError, EngineEvent, KVBlocks, ModelInfo, TokenChunk

_LENGTH = struct.Struct(">I")
HEADER_BYTES = _LENGTH.size


class Method(StrEnum):
    """What can be asked of an engine; all but the first three and `CLOSE` are answered by a `Reply`."""

    GENERATE = "generate"
    ABORT = "abort"
    REPRIORITIZE = "reprioritize"
    LIMIT_RUNNING = "limit_running"
    RETAIN = "retain"
    EXTEND = "extend"
    RELEASE = "release"
    DEMOTE = "demote"
    PREFETCH = "prefetch"
    ESTIMATE = "estimate"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Call:
    """A method with its arguments. `number` names the `Reply`; 0 wants none."""

    number: int
    method: Method
    arguments: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call returned or raised."""

    number: int
    value: object = None
    error: EngineError | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded and requests are welcome."""

    model: ModelInfo
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class LoadFailed:
    error: EngineError


@dataclass(slots=True)
class Output:
    """Everything that one turn of the engine's loop has to say. `kv`: what its memory is used for, if it changed."""

    deliveries: list[tuple[str, TokenChunk | EngineError]] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    events: list[EngineEvent] = field(default_factory=list)
    kv: tuple[KVBlocks, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.deliveries or self.replies or self.events)


Message = Ready | LoadFailed | Output


def pack(message: object) -> bytes:
    """One frame: 4 bytes of length, big endian, and the pickled message."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


def body_bytes(header: bytes) -> int:
    """The length that a frame's header announces."""
    size: int = _LENGTH.unpack(header)[0]
    return size


def read_frame(stream: BinaryIO) -> object | None:
    """The next message of a blocking stream; None at its end, also when it ends within a frame."""
    header = stream.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    size = body_bytes(header)
    data = stream.read(size)
    return pickle.loads(data) if len(data) == size else None
