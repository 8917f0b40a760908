"""The semantic cache: answers what was answered before, and knows when it must not.

Exact tier, then a semantic tier inside a hard partition, with thresholds that are calibrated by category and held to
an error target. Imports `dag` and `tenuto.wire` only; the runtime asks it before an engine is asked.
"""

from semantic_cache.admin import FlushPlan
from semantic_cache.cache import SemanticCache
from semantic_cache.errors import (
    CacheClosed,
    CacheError,
    ConfirmationNeeded,
    EmbedderError,
    InvalidPolicy,
    InvalidRequest,
    ModelFilesError,
    StoreError,
    TransferError,
    UnknownEntry,
)
from semantic_cache.eviction import Limits
from semantic_cache.judge import Judge, JudgeCase, SameAnswer
from semantic_cache.outcome import (
    Bypass,
    Example,
    Explanation,
    Hit,
    Miss,
    NotStored,
    Outcome,
    Shadow,
    Stored,
    Ticket,
    Tier,
)
from semantic_cache.policy import SHIPPED, UNSURE, Category, Guard, Policies, Sharing
from semantic_cache.request import Answer, CacheRequest, QuestionHole, request_for_call
from semantic_cache.settings import CacheSettings
from semantic_cache.stats import CacheStats, CategoryStats

__all__ = [
    "SHIPPED",
    "UNSURE",
    "Answer",
    "Bypass",
    "CacheClosed",
    "CacheError",
    "CacheRequest",
    "CacheSettings",
    "CacheStats",
    "Category",
    "CategoryStats",
    "ConfirmationNeeded",
    "EmbedderError",
    "Example",
    "Explanation",
    "FlushPlan",
    "Guard",
    "Hit",
    "InvalidPolicy",
    "InvalidRequest",
    "Judge",
    "JudgeCase",
    "Limits",
    "Miss",
    "ModelFilesError",
    "NotStored",
    "Outcome",
    "Policies",
    "QuestionHole",
    "SameAnswer",
    "SemanticCache",
    "Shadow",
    "Sharing",
    "StoreError",
    "Stored",
    "Ticket",
    "Tier",
    "TransferError",
    "UnknownEntry",
    "request_for_call",
]
