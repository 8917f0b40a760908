"""Large arguments of tools, read from the server when a task that names them comes.

Owns what was read: once for all tasks of this process, as bytes, so that no tool sees what another one changed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from tenuto.http import HTTP, parsed
from tenuto.tasks import TaskFailure
from tenuto.wire import FunctionTask, JsonPath, Reference, VariableStatus, VariableView

_MOST_BYTES = 64 * 2**20
_WAIT_S = 30.0
"""A value may be given on before it is on disk; so long it is waited for."""

_Place = tuple[str, str, JsonPath]


class Fetched:
    """Parts of variables, the latest used up to 64 MiB. Invariant: a part is asked for once at a time."""

    def __init__(self, http: HTTP) -> None:
        self._http = http
        self._kept: OrderedDict[_Place, bytes] = OrderedDict()
        self._reading: dict[_Place, asyncio.Task[bytes]] = {}
        self._bytes = 0

    async def complete(self, task: FunctionTask) -> FunctionTask:
        """The task with all its arguments. Raises `TaskFailure`, `TenutoError`."""
        if not task.fetch:
            return task
        values = await asyncio.gather(*(self._value(task.program, part) for part in task.fetch.values()))
        large: Mapping[str, Any] = dict(zip(task.fetch, values, strict=True))
        return task.model_copy(update={"arguments": {**task.arguments, **large}, "fetch": {}})

    async def _value(self, program: str, part: Reference) -> Any:
        place = (program, part.variable, part.path)
        content = self._kept.get(place)
        if content is None:
            reading = self._reading.get(place)
            if reading is None:
                reading = self._reading[place] = asyncio.create_task(self._read(place))
                reading.add_done_callback(lambda _: self._reading.pop(place))
            content = await asyncio.shield(reading)
        else:
            self._kept.move_to_end(place)
        view = parsed(VariableView, content)
        if view.status is not VariableStatus.WRITTEN:
            message = f"argument: variable {part.variable!r} could not be read: it is {view.status.value}"
            raise TaskFailure("arguments_unavailable", message, retryable=True)
        self._keep(place, content)
        return view.value

    async def _read(self, place: _Place) -> bytes:
        program, variable, path = place
        pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
        params = {"wait": _WAIT_S, "pointer": pointer or None}
        url = f"/v1/programs/{program}/variables/{variable}"
        return (await self._http.request("GET", url, params=params, timeout_s=_WAIT_S + 30.0)).content

    def _keep(self, place: _Place, content: bytes) -> None:
        """Only what is written stays as it is: anything else is asked for again."""
        if place in self._kept or len(content) > _MOST_BYTES:
            return
        self._kept[place] = content
        self._bytes += len(content)
        while self._bytes > _MOST_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1])
