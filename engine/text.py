"""Between text and token ids: tokenizer, chat template, incremental text of an output, stop strings.

History is never tokenized again; what a template renders runs in a sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from engine.clock import strftime_now
from engine.config import read_json
from engine.protocol import ChatMessage, InvalidRequest, ModelLoadError

_REPLACEMENT = "\ufffd"
_WINDOW = 24
_OVERLAP = 8


class TextCodec:
    """The tokenizer and chat template of a model directory."""

    def __init__(self, directory: Path) -> None:
        file = directory / "tokenizer.json"
        if not file.is_file():
            raise ModelLoadError(f"{file}: file is missing")
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exceptions
            raise ModelLoadError(f"{file}: cannot be read as a tokenizer: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        settings = directory / "tokenizer_config.json"
        self._settings = read_json(settings) if settings.is_file() else {}
        self._template = _chat_template(directory, self._settings)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self.longest_token = max(map(len, vocabulary), default=1)
        eos = self._special("eos_token")
        self.eos_ids: tuple[int, ...] = (vocabulary[eos],) if eos in vocabulary else ()

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered text; special tokens written in it are recognised, none are added."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def spell(self, ids: Sequence[int]) -> str:
        """The text of ids as a rendered prompt has it: special tokens included."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def stream(self, stops: Sequence[str] = ()) -> TextStream:
        """The text of a new output, which ends before the first of `stops`."""
        return TextStream(self, stops)

    def render(self, messages: Sequence[ChatMessage], tools: Sequence[str] = ()) -> str:
        """The prompt that asks for the next assistant message; `tools` are JSON texts. Raises `InvalidRequest`."""
        if self._template is None:
            raise InvalidRequest("the model directory has no chat template: pass prompt_ids instead of messages")
        try:
            return self._template.render(
                messages=[_message(message) for message in messages],
                add_generation_prompt=True,
                tools=_tools(tools) or None,
                bos_token=self._special("bos_token"),
                eos_token=self._special("eos_token"),
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequest(f"the model's chat template refuses the messages: {error}") from None

    def to_json(self) -> str:
        """The tokenizer in the format of tokenizer.json."""
        text: str = self._tokenizer.to_str()
        return text

    def _special(self, name: str) -> str:
        value = self._settings.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        return value if isinstance(value, str) else ""


def _message(message: ChatMessage) -> dict[str, Any]:
    """A message as templates get it. Raises `ValueError` if a tool call is not JSON."""
    shown: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        shown["tool_calls"] = [json.loads(text) for text in message.tool_calls]
    if message.tool_call_id:
        shown["tool_call_id"] = message.tool_call_id
    return shown


def _tools(texts: Sequence[str]) -> list[dict[str, Any]]:
    """The tools' descriptions as templates get them. Raises `InvalidRequest` naming the one that is no JSON object."""
    tools = []
    for index, text in enumerate(texts):
        try:
            tool = json.loads(text)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"tools[{index}] is not JSON: {error}") from None
        if not isinstance(tool, dict):
            raise InvalidRequest(f"tools[{index}] must be a JSON object")
        tools.append(tool)
    return tools


def _chat_template(directory: Path, settings: dict[str, Any]) -> Template | None:
    """`chat_template.jinja`, or `chat_template` of tokenizer_config.json: a string, or a list of named ones."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        source: Any = file.read_text(encoding="utf-8")
    else:
        file, source = directory / "tokenizer_config.json", settings.get("chat_template")
        if isinstance(source, list):
            source = next((item["template"] for item in source if item.get("name") == "default"), None)
    if source is None:
        return None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = strftime_now
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ModelLoadError(f"{file}: chat template: line {getattr(error, 'lineno', '?')}: {error}") from None


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, sort_keys: bool = False) -> str:
    """As templates expect it: without jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


class TextStream:
    """The text of one output as its tokens come.

    The pieces together are exactly the decoding of all ids, cut before the first stop string. A piece never splits a
    character, and text that may be the beginning of a stop string is held back.
    """

    __slots__ = ("_codec", "_emitted", "_held", "_ids", "_stops", "stopped")

    def __init__(self, codec: TextCodec, stops: Sequence[str]) -> None:
        self._codec = codec
        self._stops = tuple(stops)
        self._ids: list[int] = []
        self._emitted = 0
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that `token` completes, perhaps none."""
        self._ids.append(token)
        return self._past_stops(self._decoded(final=False), final=False)

    def flush(self) -> str:
        """What is left when no token follows; bytes that are no character become U+FFFD."""
        return "" if self.stopped else self._past_stops(self._decoded(final=True), final=True)

    def _decoded(self, *, final: bool) -> str:
        """New complete characters. Decodes a window of ids only: a few old ones for context, and the new."""
        text = self._codec.decode(self._ids)
        # An unfinished character shows as up to three U+FFFD at the end, which may still become something else.
        open_tail = 0 if final else min(len(text) - len(text.rstrip(_REPLACEMENT)), 3)
        stable = len(text) - open_tail
        new = text[self._emitted : stable]
        self._emitted = stable
        if len(self._ids) >= _WINDOW:
            self._ids = self._ids[-_OVERLAP:]
            self._emitted = len(self._codec.decode(self._ids)) - open_tail
        return new

    def _past_stops(self, new: str, *, final: bool) -> str:
        if not self._stops:
            return new
        text = self._held + new
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        held = 0 if final else max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
