"""How a program that was asked for over HTTP is accepted: its headers, and the answer. One way for all routes."""

import re
from typing import Annotated

from fastapi import Header, Request, Response

from orchestrator.api.parts import answer, parts_of, principal, tenant
from orchestrator.api.problems import invalid_header
from tenuto.wire import ProgramSubmission

IdempotencyKey = Annotated[
    str | None, Header(description="repeats of this request with the same key are answered as the first one was")
]
Traceparent = Annotated[str | None, Header(description="W3C trace context that the program continues")]

_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")


async def accepted(
    request: Request, submission: ProgramSubmission, idempotency_key: str | None, traceparent: str | None
) -> Response:
    """Submit the program; 201, or 200 where an earlier request had the key and the body. Raises InvalidRequest."""
    summary, created = await parts_of(request).runtime.submit(
        submission,
        tenant=tenant(request),
        idempotency_key=_checked(idempotency_key),
        traceparent=traceparent,
        principal=principal(request),
    )
    return answer(summary, 201 if created else 200, {"location": f"/v1/programs/{summary.id}"})


def _checked(key: str | None) -> str | None:
    """The key without the quotes that a structured header has. Raises InvalidRequest."""
    if key is None:
        return None
    bare = key[1:-1] if len(key) >= 2 and key[0] == key[-1] == '"' else key
    if _KEY.match(bare) is None:
        raise invalid_header("Idempotency-Key", "the key is not 1 to 255 visible ASCII characters", "send a UUID")
    return bare
