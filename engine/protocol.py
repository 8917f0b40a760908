"""The engine protocol: what the orchestrator may ask of anything that generates tokens.

Local, remote and simulated engines satisfy `Engine`; one conformance suite holds them to it.
Types are plain dataclasses so that an engine runs where nothing but torch is installed.

Priority polarity is fixed here once: a *smaller* key is served first. Adapters of engines that
think otherwise convert.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

PriorityKey = tuple[float, ...]
"""Compared lexicographically; smaller is more urgent."""


class PrioritySupport(StrEnum):
    NONE = "none"
    AT_SUBMIT = "at_submit"
    MUTABLE = "mutable"


class RetentionSupport(StrEnum):
    """NONE: nothing is kept on purpose. SOFT: a hint. HOST: kept in host memory. HARD: leases on device blocks."""

    NONE = "none"
    SOFT = "soft"
    HOST = "host"
    HARD = "hard"


class Tier(StrEnum):
    DEVICE = "device"
    HOST = "host"


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"
    TOOL_CALL = "tool_call"


class LeaseOutcome(StrEnum):
    """How a lease ended. Exactly one is recorded for each lease that was granted."""

    HANDOFF = "handoff"
    EXPIRED = "expired"
    PRESSURE = "pressure"
    CANCELLED = "cancelled"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; the orchestrator does the rest itself.

    `kv_tokens` and `host_kv_tokens`: how many tokens' KV fit on the device and in the host tier; `max_running`:
    sequences in one step; `host_tokens_per_s`: speed of copies between the tiers. 0 = unknown.
    """

    priority: PrioritySupport = PrioritySupport.NONE
    retention: RetentionSupport = RetentionSupport.NONE
    max_lease_ttl_s: float = 0.0
    fork: bool = False
    prefetch: bool = False
    grammar: bool = False
    logprobs: bool = False
    estimate: bool = False
    kv_tokens: int = 0
    host_kv_tokens: int = 0
    host_tokens_per_s: float = 0.0
    max_running: int = 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model behind an engine. `context_tokens` bounds prompt + output."""

    name: str
    context_tokens: int
    vocab_size: int
    kv_bytes_per_token: int = 0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn; `temperature` 0 is greedy. Draws depend on (seed, position) alone, never on the batch.

    `repetition_penalty` divides positive logits of tokens in prompt and output, and multiplies negative ones (Keskar et
    al. 2019, arXiv 1909.05858); `presence_penalty` is subtracted once for tokens in the output, `frequency_penalty`
    for each time they occur there; `logit_bias` is added: (token, bias). `logprobs` >= 0: tell each token's log
    probability, by the model's own logits, and those of so many most probable ones.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int = -1


class GrammarKind(StrEnum):
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"


@dataclass(frozen=True, slots=True)
class Grammar:
    """A constraint on the output; `source` is the JSON Schema (as JSON text), the regex or the Lark grammar.

    `tool_call`: the output ends as soon as it is a sentence of the grammar, that is, when the call it writes is
    complete, with `FinishReason.TOOL_CALL`; otherwise it ends when nothing may follow or the model ends it.
    """

    kind: GrammarKind
    source: str
    tool_call: bool = False


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a rendered prompt; `role` is system, user, assistant or tool.

    `tool_calls`: the calls that an assistant's message asked for, each as JSON text in OpenAI's shape, with the
    arguments as an object; `tool_call_id`: the call whose result a tool's message is.
    """

    role: str
    content: str
    tool_calls: tuple[str, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One LLM call. `id` is unique per attempt. `salt` keeps tenants' prefixes apart.

    The prompt is either `messages`, which the engine renders with its model's chat template, or `prompt_ids`.
    `expected_tokens` is the scheduler's estimate of the output length (0 = unknown). `call` and `stage` name the
    node of the program and its step in the workflow's code; `attempt` counts the runs of that node from 1.
    `continues` names an earlier request of the same salt: where the rendered prompt begins with that request's prompt
    and output, their ids are extended and never tokenized again, and its lease ends as `HANDOFF` when this request is
    admitted. `hold_s` > 0: when this request ends well, its chain is leased for so long under the request's own id,
    before anyone else can take its blocks.
    `n` outputs are drawn (chunks carry an `index`), the best of `best_of` (0 = `n`) by mean log probability.
    `adapter` names the LoRA adapter to answer with; its prefixes are its own. `tools`: the JSON text of each tool that
    the chat template shall tell of.
    """

    id: str
    program: str
    messages: tuple[ChatMessage, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    model: str = ""
    call: str = ""
    stage: str = ""
    attempt: int = 1
    sampling: SamplingParams = field(default_factory=SamplingParams)
    key: PriorityKey = (0.0,)
    grammar: Grammar | None = None
    salt: str = ""
    expected_tokens: int = 0
    traceparent: str | None = None
    continues: str = ""
    hold_s: float = 0.0
    n: int = 1
    best_of: int = 0
    adapter: str = ""
    tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts and the seconds of one request: waiting for its first step, prefill to the first token, decode.

    `recomputed_tokens`: those of the prompt that this engine had computed before and had to compute again;
    `host_tokens`: those of the cached ones that came back from the host tier.
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    preemptions: int = 0
    recomputed_tokens: int = 0
    host_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log of the probability that the model gave `token`; `top`: the most probable ones in its place."""

    token: int
    text: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """A piece of output `index`. `text` is complete characters only. Its last chunk has `finish` and `usage`.

    `logprobs`: one for each of `token_ids`, if they were asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: FinishReason | None = None
    usage: Usage | None = None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of a program to keep a block chain resident for `ttl_s` seconds from now.

    The chain is that of `token_ids` under `salt`; or, if there are none, that of `request`, which has ended: its prompt
    and output; of either only the first `tokens` (0 = all). `rank`: leases with smaller rank are broken first under
    pressure. Granting the same id again renews its TTL, rank, chain and tier; with neither ids nor a request that is
    known, the chain stays.
    """

    id: str
    program: str
    token_ids: tuple[int, ...]
    ttl_s: float
    salt: str = ""
    tier: Tier = Tier.DEVICE
    rank: float = 0.0
    request: str = ""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """What was granted: bytes really held (0 = nothing was resident or the budget is full) and where."""

    lease: str
    bytes: int
    tier: Tier | None
    expires_in_s: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a prompt would cost now: tokens already cached by tier, seconds of prefill and of waiting."""

    cached_tokens: dict[Tier, int]
    prefill_s: float
    queue_s: float


@dataclass(frozen=True, slots=True)
class KVBlocks:
    """The blocks of one tier, each in one state: free; active (sequences refer to it); leased (only leases hold it);
    cached (nobody holds it, its contents are kept until the memory is wanted)."""

    tier: Tier
    free: int
    active: int
    leased: int
    cached: int


@dataclass(frozen=True, slots=True)
class EngineStep:
    """One forward pass that has just ended: sequences that decoded, tokens of prompts, and the `traceparent`s of the
    requests in it, each once."""

    seconds: float
    decodes: int
    prompt_tokens: int
    traceparents: tuple[str, ...]


class EngineEventKind(StrEnum):
    """LOST: the engine's process died; nothing that was resident or leased is there any more. STEP: for traces, if the
    engine was told to tell of its steps."""

    STORED = "stored"
    EVICTED = "evicted"
    LEASED = "leased"
    LEASE_ENDED = "lease_ended"
    SWAPPED = "swapped"
    LOST = "lost"
    STEP = "step"


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """A change of what is resident, with the program that it belongs to."""

    kind: EngineEventKind
    program: str
    blocks: int
    lease: str | None = None
    outcome: LeaseOutcome | None = None
    tier: Tier = Tier.DEVICE
    step: EngineStep | None = None


class EngineError(Exception):
    """Base of every error an engine reports. `retryable`: a second attempt may succeed."""

    name = "engine_error"
    retryable = False


class PromptTooLong(EngineError):
    name = "prompt_too_long"


class InvalidGrammar(EngineError):
    name = "invalid_grammar"


class InvalidRequest(EngineError):
    name = "invalid_request"


class UnknownAdapter(InvalidRequest):
    """The engine has no LoRA adapter of that name, or cannot read it."""

    name = "unknown_adapter"


class QueueFull(EngineError):
    name = "queue_full"
    retryable = True


class NumericalFault(EngineError):
    """The model produced NaN or infinite logits for this sequence."""

    name = "numerical_fault"


class ModelLoadError(EngineError):
    """The model directory cannot be served: the message names the file and the fault."""

    name = "model_load_error"


class CorruptedBlock(EngineError):
    """A block of KV is not what it was (debug mode); it is used no more, and another attempt computes it again."""

    name = "corrupted_block"
    retryable = True


class EngineLost(EngineError):
    """The engine process died while the call ran."""

    name = "engine_lost"
    retryable = True


@runtime_checkable
class CountsTokens(Protocol):
    """An engine that can tell at once how long a prompt is."""

    def count_tokens(self, messages: tuple[ChatMessage, ...]) -> int: ...


@runtime_checkable
class CountsBlocks(Protocol):
    """An engine that knows what its KV memory is used for."""

    def kv_blocks(self) -> tuple[KVBlocks, ...]:
        """One of each tier, as of its last word; empty before its first."""
        ...


class Engine(Protocol):
    """Every method is idempotent; names of requests and leases that are unknown or ended are no error."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def model(self) -> ModelInfo: ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """Stream the output. Raises `EngineError`s. Closing the iterator aborts the request."""
        ...

    async def reprioritize(self, program: str, key: PriorityKey) -> None:
        """Give all waiting and running requests of `program` a new key from the next step on."""
        ...

    async def limit_running(self, limit: int) -> None:
        """Run at most `limit` (>= 1) sequences at once from the next step on, within the engine's own limit."""
        ...

    async def retain(self, lease: Lease) -> LeaseGrant: ...

    async def extend(self, lease: str, ttl_s: float) -> LeaseGrant: ...

    async def release(self, lease: str, outcome: LeaseOutcome) -> None: ...

    async def demote(self, lease: str) -> LeaseGrant: ...

    async def prefetch(self, lease: str, within_s: float) -> None: ...

    async def abort(self, request: str) -> None: ...

    async def estimate(self, prompt_ids: tuple[int, ...], salt: str = "") -> Estimate: ...

    def events(self) -> AsyncIterator[EngineEvent]: ...

    async def close(self) -> None: ...
