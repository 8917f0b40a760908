"""Tenuto: serve programs, not requests. Declare LLM programs as typed Python and run them on a server."""

from tenuto.agent import agent
from tenuto.client import AsyncClient
from tenuto.errors import (
    APIError,
    Busy,
    CallFailed,
    Conflict,
    ConnectionLost,
    DefinitionError,
    ForeignVar,
    InvalidArgument,
    InvalidResult,
    NoClient,
    NoneSucceeded,
    NotFound,
    OutsideWorkflow,
    ProgramCancelled,
    ProtocolMismatch,
    RealEngineCall,
    RequestInvalid,
    RunningLoop,
    ServerFault,
    ServerNotInstalled,
    ServerStartError,
    TenutoError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from tenuto.execution import Piece
from tenuto.functions import LLM, Tool, llm, tool
from tenuto.local import local
from tenuto.mermaid import mermaid
from tenuto.pieces import Pieces
from tenuto.planner import planner
from tenuto.run import AsyncRun, Run, Stream
from tenuto.sync_client import Client
from tenuto.tasks import cancelled
from tenuto.var import Var, first, gather
from tenuto.wire import CacheControl, EffectClass, Objective, Retry
from tenuto.workflow import Workflow, workflow

__all__ = [
    "LLM",
    "APIError",
    "AsyncClient",
    "AsyncRun",
    "Busy",
    "CacheControl",
    "CallFailed",
    "Client",
    "Conflict",
    "ConnectionLost",
    "DefinitionError",
    "EffectClass",
    "ForeignVar",
    "InvalidArgument",
    "InvalidResult",
    "NoClient",
    "NoneSucceeded",
    "NotFound",
    "Objective",
    "OutsideWorkflow",
    "Piece",
    "Pieces",
    "ProgramCancelled",
    "ProtocolMismatch",
    "RealEngineCall",
    "RequestInvalid",
    "Retry",
    "Run",
    "RunningLoop",
    "ServerFault",
    "ServerNotInstalled",
    "ServerStartError",
    "Stream",
    "TenutoError",
    "TooLarge",
    "Tool",
    "Unauthorized",
    "Unavailable",
    "Var",
    "Workflow",
    "agent",
    "cancelled",
    "first",
    "gather",
    "llm",
    "local",
    "mermaid",
    "planner",
    "tool",
    "workflow",
]
