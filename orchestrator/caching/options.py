"""The `[semantic_cache]` section of the settings. Owns its shape; never opens anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from semantic_cache import CacheSettings, Policies

NO_EMBEDDER = "none"


class CategoryOptions(BaseModel):
    """Changes to a category that ships, or a new one (then the first four are needed). Seconds and shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    similarity: float | None = None
    ttl_s: float | None = None
    quota: float | None = None
    error_target: float | None = None
    floor: float | None = None
    ttl_max_s: float | None = None
    overload_error_target: float | None = None
    volatile: bool | None = None
    sharing: Literal["principal", "second_sighting", "tenant"] | None = None
    shadow_rate: float | None = None
    grey: float | None = None


class CacheOptions(BaseModel):
    """What the server's semantic cache is and where it lives.

    `directory`: none, and the cache lives no longer than the process. `embedder`: a model directory, a hub id, the URL
    of an `/v1/embeddings` endpoint, or "none"; without one given, the installed weights if there are any.
    `revision`: raise it when what stands behind a model's name has changed; older answers are then found no more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["off", "exact", "semantic"] = "off"
    directory: Path | None = None
    revision: str = Field(default="", max_length=100)
    embedder: str | None = None
    embedder_model: str = Field(default="", description="the model's name at an endpoint")
    embedder_dimensions: int = Field(default=384, ge=1, le=8192, description="of an endpoint's vectors")
    embedder_key: str | None = Field(default=None, repr=False, description="bearer key of an endpoint")
    judge_model: str | None = Field(default=None, description="a model that says whether two answers are the same")
    shadows: int = Field(default=1, ge=0, le=64, description="shadow calls at once; 0 = none")
    entries: int = Field(default=100_000, ge=1)
    bytes: int = Field(default=2**30, ge=2**20)
    temperature_limit: float = Field(default=0.3, ge=0, le=10)
    queue_target_s: float = Field(default=2.0, gt=0, description="waits this long are full load")
    error_budget: float | None = Field(default=None, gt=0, lt=1, description="one budget, allocated over categories")
    categories: dict[str, CategoryOptions] = Field(default_factory=dict)

    def policies(self) -> Policies:
        """The shipped categories with these changes. Raises `semantic_cache.InvalidPolicy`."""
        from semantic_cache import SHIPPED, Category, InvalidPolicy, Policies, Sharing

        named = {category.name: category for category in SHIPPED}
        for name, options in self.categories.items():
            changes = options.model_dump(exclude_none=True)
            if options.sharing is not None:
                changes["sharing"] = Sharing(options.sharing)
            if name in named:
                named = dict(Policies(named.values()).with_changes(name, **changes))
            else:
                try:
                    named[name] = Category(name, **changes)
                except TypeError as error:
                    raise InvalidPolicy(f"category {name!r} is new: {error}") from None
            named.pop("unsure", None)
        return Policies(named.values())

    def settings(self) -> CacheSettings:
        """The settings of the cache itself. Raises `semantic_cache.InvalidPolicy`."""
        from semantic_cache import CacheSettings, Limits

        return CacheSettings(
            limits=Limits(entries=self.entries, bytes=self.bytes),
            temperature_limit=self.temperature_limit,
            error_budget=self.error_budget,
        )
