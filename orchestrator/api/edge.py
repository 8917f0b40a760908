"""What happens to every request before and after its route: an id, a tenant, and an answer whatever goes wrong.

One plain ASGI layer, so that streams pass through untouched. Never reads bodies.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api import dashboard
from orchestrator.api.auth import NOBODY, KeyRing
from orchestrator.api.problems import problem_response

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json", *dashboard.PAGES})
"""Answered without a key: probes have none, and the description of the API and the dashboard's page are public."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{1,128}\Z")


class ClientGone(OSError):
    """The client closed its side before it had its answer."""


class Edge:
    """The outermost layer of the app.

    `answers_to` says by which host names the server may be called (None: any). A page of another site can make a
    browser send requests to 127.0.0.1 under a name of its own (DNS rebinding); such a name is refused here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyRing,
        answers_to: Callable[[str], bool] | None,
        new_request_id: Callable[[], str],
    ) -> None:
        self._app = app
        self._keys = keys
        self._answers_to = answers_to
        self._new_request_id = new_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given_id = authorization = host = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given_id = value
            elif name == b"authorization":
                authorization = value
            elif name == b"host":
                host = value
        request_id = given_id.decode() if _REQUEST_ID.match(given_id) else self._new_request_id()
        scope["tenuto.request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            try:
                await send(message)
            except OSError as fault:
                raise ClientGone(str(fault)) from fault

        refusal = self._admit(scope, request_id, authorization.decode("latin-1"), host.decode("latin-1"))
        try:
            await (refusal or self._app)(scope, receive, send_with_id)
        except ClientGone:
            log.debug("request %s: the client left", request_id)
        except Exception:
            log.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"])
            if started:
                raise  # the answer is under way: all that is left is to break the connection
            await _internal_error(request_id, scope["path"])(scope, receive, send_with_id)

    def _admit(self, scope: Scope, request_id: str, authorization: str, host: str) -> Response | None:
        """Note the request's tenant; the refusal if it has none."""
        if self._answers_to is not None and host and not self._answers_to(_hostname(host)):
            return problem_response(
                request_id,
                name="host_not_allowed",
                status=421,
                title="The server is not called by this name",
                detail=f"a server without API keys answers to localhost and 127.0.0.1 only, not to {host!r}",
                path=scope["path"],
            )
        caller = self._keys.identify(authorization)
        if caller is None:
            if scope["path"] not in OPEN_PATHS:
                return problem_response(
                    request_id,
                    name="unauthorized",
                    status=401,
                    title="An API key is needed",
                    detail="send a key of this server in the header 'authorization: Bearer <key>'",
                    headers={"www-authenticate": "Bearer"},
                    path=scope["path"],
                )
            caller = NOBODY
        scope["tenuto.tenant"] = caller.tenant
        scope["tenuto.principal"] = caller.principal
        scope["tenuto.operator"] = caller.operator
        return None


def _hostname(host: str) -> str:
    """The name in a Host header's value, without its port and brackets."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()


def _internal_error(request_id: str, path: str) -> Response:
    return problem_response(
        request_id,
        name="internal_error",
        status=500,
        title="The server failed",
        detail=f"an unforeseen error, which the server's log describes under {request_id}",
        path=path,
    )
