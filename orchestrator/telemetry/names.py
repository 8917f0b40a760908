"""The names of spans and attributes, written once: OpenTelemetry GenAI semantic conventions (v1.42, "development"),
and our own under `tenuto.`."""

from __future__ import annotations

from typing import Final

# operations: values of OPERATION, and the first word of a span's name
CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"
INVOKE_WORKFLOW: Final = "invoke_workflow"
INVOKE_AGENT: Final = "invoke_agent"
EMBEDDINGS: Final = "embeddings"

PROVIDER: Final = "tenuto"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
WORKFLOW_NAME: Final = "gen_ai.workflow.name"
AGENT_NAME: Final = "gen_ai.agent.name"
ERROR_TYPE: Final = "error.type"
TOKEN_TYPE: Final = "gen_ai.token.type"
EMBEDDING_DIMENSIONS: Final = "gen_ai.embeddings.dimension.count"

REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_STOP: Final = "gen_ai.request.stop_sequences"
OUTPUT_TYPE: Final = "gen_ai.output.type"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"

TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_TYPE: Final = "gen_ai.tool.type"

# content, recorded only when asked for
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"

# ours
PROGRAM_ID: Final = "tenuto.program.id"
CALL_ID: Final = "tenuto.call.id"
STAGE: Final = "tenuto.stage"
ATTEMPT: Final = "tenuto.attempt"
VARIABLE: Final = "tenuto.variable.name"
VARIABLE_PRODUCER: Final = "tenuto.variable.producer"
VARIABLE_CONSUMERS: Final = "tenuto.variable.consumers"
POLICY: Final = "tenuto.sched.policy"
SLACK_SECONDS: Final = "tenuto.sched.slack_s"
QUEUE_SECONDS: Final = "tenuto.queue_s"
QUEUE_BEHIND: Final = "tenuto.queue.behind"
PREFILL_SECONDS: Final = "tenuto.prefill_s"
DECODE_SECONDS: Final = "tenuto.decode_s"
RECOMPUTED_TOKENS: Final = "tenuto.kv.recomputed_tokens"
DEVICE_TOKENS: Final = "tenuto.kv.cached_tokens.device"
HOST_TOKENS: Final = "tenuto.kv.cached_tokens.host"
LEASE_TTL: Final = "tenuto.lease.ttl_s"
LEASE_TIER: Final = "tenuto.lease.tier"
LEASE_OUTCOME: Final = "tenuto.lease.outcome"
CACHE_VERDICT: Final = "tenuto.cache.verdict"
CACHE_CATEGORY: Final = "tenuto.cache.category"
CACHE_SIMILARITY: Final = "tenuto.cache.similarity"
CACHE_AGE: Final = "tenuto.cache.age_s"
CACHE_SAVED_SECONDS: Final = "tenuto.cache.saved_s"
CACHE_SAVED_TOKENS: Final = "tenuto.cache.saved_tokens"
ENGINE: Final = "tenuto.engine"
OBJECTIVE: Final = "tenuto.objective"
TIER: Final = "tenuto.kv.tier"
KV_STATE: Final = "tenuto.kv.state"
TOOL: Final = "tenuto.tool"

CAPTURE_CONTENT: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Environment variable: SPAN_ONLY or SPAN_AND_EVENT put prompts, outputs, arguments and results on spans."""
