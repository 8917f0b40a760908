"""Examples of the OpenAPI document. A test sends each of them to its route."""

from typing import Any

PROGRAM_ID = "prog_0f8fad5bd9cb469fa165"

SUBMISSIONS: dict[str, dict[str, Any]] = {
    "one call": {
        "workflow": "translate",
        "graph": {
            "inputs": {"text": {"value": "Where is the station?"}},
            "calls": [
                {
                    "kind": "llm",
                    "id": "answer",
                    "messages": [
                        {
                            "role": "user",
                            "parts": [
                                {"kind": "text", "text": "Translate into French: "},
                                {"kind": "variable", "variable": "text"},
                            ],
                        }
                    ],
                    "sampling": {"max_tokens": 60},
                }
            ],
            "outputs": ["answer"],
        },
    },
    "a tool between two calls": {
        "workflow": "capital",
        "graph": {
            "inputs": {"question": {"value": "How many people live in the capital of France?"}},
            "calls": [
                {
                    "kind": "llm",
                    "id": "place",
                    "type": {
                        "kind": "json",
                        "json_schema": {
                            "type": "object",
                            "properties": {"city": {"type": "string"}},
                            "required": ["city"],
                        },
                    },
                    "messages": [
                        {
                            "role": "user",
                            "parts": [
                                {"kind": "text", "text": "Name the city that is asked about: "},
                                {"kind": "variable", "variable": "question"},
                            ],
                        }
                    ],
                },
                {
                    "kind": "function",
                    "id": "population",
                    "tool": "population",
                    "type": {"kind": "json", "json_schema": {"type": "integer"}},
                    "arguments": {"city": {"kind": "ref", "variable": "place", "path": ["city"]}},
                    "effect": "read",
                },
                {
                    "kind": "llm",
                    "id": "answer",
                    "messages": [
                        {
                            "role": "user",
                            "parts": [
                                {"kind": "variable", "variable": "question"},
                                {"kind": "text", "text": "\nPopulation: "},
                                {"kind": "variable", "variable": "population"},
                            ],
                        }
                    ],
                },
            ],
            "outputs": ["answer"],
        },
        "toolset": "geography",
        "objective": {"kind": "deadline", "deadline_s": 20},
        "metadata": {"user": "42"},
    },
    "an open program": {"workflow": "agent", "open": True},
}

EXTENSIONS: dict[str, dict[str, Any]] = {
    "one more call": {
        "calls": [
            {
                "kind": "llm",
                "id": "next",
                "messages": [{"role": "user", "parts": [{"kind": "text", "text": "Go on."}]}],
            }
        ],
        "outputs": ["next"],
    },
    "the end": {"seal": True, "result": {"steps": 1}},
}

REGISTRATIONS: dict[str, dict[str, Any]] = {
    "one tool": {
        "toolset": "geography",
        "tools": [
            {
                "name": "population",
                "description": "People who live in a city.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
                "returns": {"type": "integer"},
                "effect": "read",
                "timeout_s": 5,
            }
        ],
    }
}

RESULTS: dict[str, list[dict[str, Any]]] = {
    "a value": [{"task": "task_17", "value": 2102650}],
    "an error": [{"task": "task_18", "error": {"type": "tool_error", "message": "no such city"}, "retryable": False}],
}

CHATS: dict[str, dict[str, Any]] = {
    "a question": {"model": "echo", "messages": [{"role": "user", "content": "Where is the station?"}]},
    "a turn of an agent": {
        "model": "echo",
        "messages": [
            {"role": "system", "content": "You look things up."},
            {"role": "user", "content": "How many people live in Paris?"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "population",
                    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
                },
            }
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tenuto": {"program": "session-17"},
    },
}

RESPONSES: dict[str, dict[str, Any]] = {
    "a question": {"model": "echo", "instructions": "Be short.", "input": "Where is the station?"},
    "a result of a function": {
        "model": "echo",
        "input": [
            {"role": "user", "content": "How many people live in Paris?"},
            {"type": "function_call", "call_id": "call_1", "name": "population", "arguments": '{"city": "Paris"}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "2102650"},
        ],
        "stream": True,
    },
}

WORKFLOWS: dict[str, dict[str, Any]] = {
    "one call over two inputs": {
        "description": "Greets somebody in a style.",
        "inputs": {"name": {"description": "whom to greet"}, "style": {"default": "friendly"}},
        "calls": [
            {
                "kind": "llm",
                "id": "greeting",
                "messages": [
                    {
                        "role": "user",
                        "parts": [
                            {"kind": "text", "text": "Greet "},
                            {"kind": "variable", "variable": "name"},
                            {"kind": "text", "text": " in this style: "},
                            {"kind": "variable", "variable": "style"},
                        ],
                    }
                ],
            }
        ],
        "outputs": ["greeting"],
    }
}

STARTS: dict[str, dict[str, Any]] = {"its inputs": {"inputs": {"name": "Ann"}}}

EXPLAINS: dict[str, dict[str, Any]] = {
    "a call that never ran": {
        "llm": {
            "kind": "llm",
            "id": "answer",
            "category": "factual",
            "question": "q",
            "messages": [{"role": "user", "parts": [{"kind": "variable", "variable": "q"}]}],
        },
        "variables": {"q": "How many people live in Paris?"},
    }
}

BUMPS: dict[str, dict[str, Any]] = {
    "a table has changed": {"tag": "table:orders"},
    "how much would go": {"tag": "table:orders", "dry_run": True},
}

REPORTS: dict[str, dict[str, Any]] = {
    "the call that got it": {"program": PROGRAM_ID, "call": "answer", "reason": "another country"}
}

FLUSHES: dict[str, dict[str, Any]] = {"what would go": {"category": "sql"}}

EVENT_STREAM = """id: 1
event: program.accepted
data: {"seq":1,"at_s":0.0,"kind":"program.accepted","attempt":0}

: heartbeat

"""

TASK_STREAM = """data: {"kind":"function","task":"task_17","program":"prog_0f8fad5bd9cb469fa165","call":"population",\
"tool":"population","arguments":{"city":"Paris"},"idempotency_key":"prog_0f8fad5bd9cb469fa165/population",\
"timeout_s":5.0,"attempt":1,"traceparent":null}

"""
