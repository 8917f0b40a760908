"""The dashboard at `/`: one page, its script and its style, out of the package. What it shows comes from the API."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

router = APIRouter(include_in_schema=False)

PAGES = ("/", "/dashboard/app.js", "/dashboard/style.css")
"""Answered without a key: the page itself asks for one before it shows anything."""

_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@router.get("/")
async def page() -> Response:
    """The page."""
    return _file("index.html", "text/html")


@router.get("/dashboard/app.js")
async def script() -> Response:
    """Its script."""
    return _file("app.js", "text/javascript")


@router.get("/dashboard/style.css")
async def style() -> Response:
    """Its style."""
    return _file("style.css", "text/css")


def _file(name: str, media: str) -> Response:
    text = files("orchestrator").joinpath("dashboard", name).read_text(encoding="utf-8")
    return Response(text, headers=_HEADERS, media_type=media)
