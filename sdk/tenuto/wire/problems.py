"""RFC 9457 problem documents: how every route of ours reports an error."""

from pydantic import Field

from tenuto.wire.base import WireModel


class FieldError(WireModel):
    """One located fault: where (`pointer`, RFC 6901, into the request body), what, and what to do."""

    pointer: str
    message: str
    fix: str = ""


class Problem(WireModel):
    """`application/problem+json`."""

    type: str = Field(description="`urn:tenuto:problem:<name>`; the docs list the names")
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: tuple[FieldError, ...] = ()
    retryable: bool = False
