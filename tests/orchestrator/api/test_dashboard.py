"""The dashboard is served whole from the package, needs no other site, and shows nothing without a key."""

from __future__ import annotations

import re

from orchestrator.api.auth import make_key
from orchestrator.api.dashboard import PAGES
from orchestrator.config import Settings
from tests.orchestrator.api.support import serving, virtually


@virtually
async def test_the_page_has_all_that_it_needs() -> None:
    async with serving() as server:
        page = await server.client.get("/")
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        html = page.body.decode()
        linked = set(re.findall(r'(?:href|src)="(/[^"#]+)"', html))
        assert linked == set(PAGES) - {"/"}
        script = (await server.client.get("/dashboard/app.js")).body.decode()
        style = (await server.client.get("/dashboard/style.css")).body.decode()
        assert not re.search(r"https?://(?!www\.w3\.org)", html + script + style)
        asked = {path.partition("?")[0] for path in re.findall(r'read\("(/v1/[^"]+)"\)', script)}
        assert asked >= {"/v1/engines", "/v1/leases", "/v1/cache/stats"}
        for path in asked - {"/v1/cache/stats"}:
            assert (await server.client.get(path)).status == 200
        wanted = set(re.findall(r'\$\("([a-z-]+)"\)', script)) | set(re.findall(r'fill\("([a-z-]+)"', script))
        assert wanted <= set(re.findall(r'id="([a-z-]+)"', html))


@virtually
async def test_the_page_is_open_and_what_it_shows_is_not() -> None:
    _, key = make_key("a", b"a" * 24)
    async with serving(settings=Settings(api_keys=(key,))) as server:
        for path in PAGES:
            assert (await server.client.get(path)).status == 200
        assert (await server.client.get("/v1/programs")).status == 401
        assert (await server.client.get("/dashboard/other.js")).status == 401
