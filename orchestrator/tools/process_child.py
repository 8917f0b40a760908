"""A process that runs the tools of configured modules, one call at a time, under limits. Started by `processes`.

Reads frames from its standard input and answers on its standard output; what tools print goes to standard error. Never
trusts a tool to keep within memory, CPU or output: the kernel and the parent hold it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import struct
import sys
from typing import Any, BinaryIO

from orchestrator.tools.failures import CallFailure
from orchestrator.tools.python import result_of, tool_error, tools_of
from tenuto import Tool
from tenuto.errors import InvalidArgument

HEAD = struct.Struct(">I")
RESOURCE_EXHAUSTED = "resource_exhausted"


def read_frame(stream: BinaryIO) -> Any:
    """The next JSON document; None at the end of the stream."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    return json.loads(stream.read(HEAD.unpack(head)[0]))


def write_frame(stream: BinaryIO, document: Any) -> None:
    body = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    stream.write(HEAD.pack(len(body)) + body)
    stream.flush()


def main() -> None:
    """Usage: `python -m orchestrator.tools.process_child OPTIONS`, JSON with `modules`, `memory_bytes`, `cpu_s`,
    `result_bytes`."""
    options = json.loads(sys.argv[1])
    frames_in, frames_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    tools: dict[str, Tool[..., Any, Any]] = {}
    for module in options["modules"]:
        tools.update(tools_of(module))
    if options["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_AS, (options["memory_bytes"], options["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    write_frame(frames_out, {"ready": os.getpid()})
    while (task := read_frame(frames_in)) is not None:
        _allow_cpu(options["cpu_s"])
        write_frame(frames_out, _answer(tools[task["tool"]], task["arguments"], options["result_bytes"]))


def _allow_cpu(seconds: float | None) -> None:
    """This call may use `seconds` of CPU from now; beyond that the kernel ends the process."""
    if seconds is None:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _answer(tool: Tool[..., Any, Any], arguments: dict[str, Any], result_bytes: int) -> dict[str, Any]:
    """What the call gave, as a frame."""
    try:
        args, kwargs = tool.signature.load(arguments)
    except InvalidArgument as error:
        return _error("arguments_invalid", str(error), retryable=False)
    try:
        value = tool.raw(*args, **kwargs)
        if asyncio.iscoroutine(value):
            value = asyncio.run(value)
        plain = result_of(tool, value)
        size = len(json.dumps(plain, ensure_ascii=False, allow_nan=False).encode())
    except CallFailure as failure:
        return _error(failure.type, failure.message, retryable=failure.retryable)
    except MemoryError:
        return _error(RESOURCE_EXHAUSTED, f"tool {tool.name!r} needs more memory than it may have", retryable=False)
    except BaseException as error:  # a tool that raises SystemExit must not end the process
        raised = tool_error(error)
        return _error(raised.type, raised.message, retryable=True)
    if size > result_bytes:
        message = f"the tool's result has {size} bytes of JSON, the limit is {result_bytes}"
        return _error("result_too_large", message, retryable=False)
    return {"value": plain}


def _error(type: str, message: str, *, retryable: bool) -> dict[str, Any]:
    return {"error": {"type": type, "message": message, "retryable": retryable}}


if __name__ == "__main__":
    main()
