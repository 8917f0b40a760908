"""The names of spans and attributes, written once: OpenTelemetry GenAI semantic conventions (v1.42, "development"),
and our own under `tenuto.`."""

from __future__ import annotations

from typing import Final

# operations: values of OPERATION, and the first word of a span's name
CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"
INVOKE_WORKFLOW: Final = "invoke_workflow"

PROVIDER: Final = "tenuto"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
WORKFLOW_NAME: Final = "gen_ai.workflow.name"
ERROR_TYPE: Final = "error.type"

REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_STOP: Final = "gen_ai.request.stop_sequences"
OUTPUT_TYPE: Final = "gen_ai.output.type"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"

TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_TYPE: Final = "gen_ai.tool.type"

# content, recorded only when asked for
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
TOOL_RESULT: Final = "gen_ai.tool.call.result"

PROGRAM_ID: Final = "tenuto.program.id"
CALL_ID: Final = "tenuto.call.id"
STAGE: Final = "tenuto.stage"
ATTEMPT: Final = "tenuto.attempt"
QUEUE_SECONDS: Final = "tenuto.queue_s"
PREFILL_SECONDS: Final = "tenuto.prefill_s"
DECODE_SECONDS: Final = "tenuto.decode_s"

CAPTURE_CONTENT: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Environment variable: SPAN_ONLY or SPAN_AND_EVENT put prompts, outputs, arguments and results on spans."""
