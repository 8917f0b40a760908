"""The semantic cache as `/v1/cache` shows it: statistics, explanations, invalidation, reports."""

from pydantic import Field, JsonValue

from tenuto.wire.base import WireModel
from tenuto.wire.calls import LLMCall, Tag
from tenuto.wire.values import Name


class CategoryStatsView(WireModel):
    """One category since the server started. Shares are 0..1; `false_share` is Wilson's interval at 95 %."""

    category: str
    entries: int
    bytes: int
    quota: float = Field(description="share of the room that is its own; unused quota is lent")
    room_share: float
    lookups: int
    exact_hits: int
    semantic_hits: int
    flight_hits: int = Field(description="answered by an equal call that was under way")
    hit_rate: float
    misses: dict[str, int] = Field(description="why, and how often")
    judged_hits: int = Field(description="semantic hits whose rightness became known")
    false_hits: int
    false_share: tuple[float, float]
    threshold: float = Field(description="similarity from which it serves; above 1: never")
    overload_threshold: float = Field(description="the same under full load")
    expected_error: float
    error_bound: float
    error_target: float
    labels: float
    from_defaults: bool = Field(description="too few labels yet to know better than the default")
    saved_s: float
    saved_tokens: int
    stored: int
    refused: dict[str, int] = Field(description="why answers were not kept, and how often")
    evicted: int
    stale: int
    quarantined: int
    promoted: int


class CacheStatsView(WireModel):
    """`GET /v1/cache/stats`."""

    mode: str
    semantic: bool = Field(description="false: equal calls only; `why_not_semantic` says why")
    why_not_semantic: str
    entries: int
    bytes: int
    index_bytes: int
    partitions: int
    load: float = Field(description="0..1: how far thresholds and times to live are relaxed")
    flights: int
    embedder_errors: int
    store_errors: int
    judged: int
    judge_dropped: int
    judge_failed: int
    categories: tuple[CategoryStatsView, ...]


class ExplainRequest(WireModel):
    """A call of a program in memory (`program` and `call`), or one that never ran (`llm` and its `variables`)."""

    program: str | None = Field(default=None, max_length=200)
    call: Name | None = None
    llm: LLMCall | None = None
    variables: dict[Name, JsonValue] = Field(default_factory=dict)
    workflow: Name = "explain"
    user: str | None = Field(default=None, max_length=200, description='as `metadata["user"]` of a program')


class CacheCandidate(WireModel):
    """A neighbour of the question. `effective`: its similarity as its own record makes it count."""

    entry: int
    question: str | None
    similarity: float
    effective: float
    category: str
    age_s: float
    verdict: str = Field(description='"served", or why it was not')


class CacheExplanation(WireModel):
    """Why a call would or would not be answered now. `elsewhere`: partitions of the same stage, and what differs."""

    outcome: str
    partition: str
    rows: int = Field(description="entries in the partition")
    category: str
    declared: bool
    threshold: float | None
    load: float
    ttl_s: float
    candidates: tuple[CacheCandidate, ...]
    elsewhere: dict[str, tuple[str, ...]]


class CacheBump(WireModel):
    """What `tag` names has changed. On a dry run nothing goes; the answer says how much would."""

    tag: Tag
    dry_run: bool = False


class CacheBumped(WireModel):
    tag: str
    entries: int
    done: bool


class BadHit(WireModel):
    """A wrong answer: by the number of its hit, by its entry, or by the call that got it."""

    hit: int | None = None
    entry: int | None = None
    program: str | None = Field(default=None, max_length=200)
    call: Name | None = None
    reason: str = Field(default="", max_length=2000)


class BadHitTaken(WireModel):
    """The entry is in quarantine: it is served no more."""

    entry: int


class CacheFlush(WireModel):
    """Delete the tenant's entries, of one category or of all. Without `confirm` it only says what would go."""

    category: str | None = Field(default=None, max_length=200)
    confirm: str | None = Field(default=None, max_length=1000)


class CacheFlushed(WireModel):
    """`confirm` is the phrase that does it."""

    entries: int
    confirm: str
    done: bool


class CacheTaken(WireModel):
    """How many lines of an upload were of use."""

    taken: int
