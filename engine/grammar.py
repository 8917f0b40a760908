"""Constrained output: compiles grammars with llguidance, once per source, and tracks what each output may say next."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from llguidance import LLMatcher, LLTokenizer, regex_to_lark

from engine.protocol import Grammar, GrammarKind, InvalidGrammar

_CACHED = 128
# JSON is written compactly, with at most one space where whitespace may stand: an output cannot be all whitespace.
_JSON_SPACE = "[ ]?"


class Matcher:
    """Where one output is in its grammar."""

    __slots__ = ("_state", "_tool_call")

    def __init__(self, state: LLMatcher, *, tool_call: bool = False) -> None:
        self._state, self._tool_call = state, tool_call

    def allowed(self, ahead: tuple[int, ...] = ()) -> bytes:
        """One bit per token of the vocabulary, least significant first: may it come next, after the tokens `ahead`?

        Raises `InvalidGrammar` if the grammar is too complex to go on with, it would allow only the end then, or if
        it does not allow what is `ahead`.
        """
        state = self._state
        if ahead:
            state = state.deep_copy()
            state.consume_tokens(list(ahead))
        mask: bytes = state.compute_bitmask()
        if state.is_error():
            raise InvalidGrammar(f"the grammar cannot be followed: {_first_lines(state.get_error())}")
        return mask

    def expected(self, guess: tuple[int, ...], most: int) -> tuple[int, ...]:
        """At most `most` tokens that probably come next: what the grammar leaves no choice about, else as much of
        `guess` as it allows."""
        forced: list[int] = self._state.compute_ff_tokens()
        if forced:
            return tuple(forced[:most])
        return guess[: self._state.validate_tokens(list(guess))] if guess else ()

    def accept(self, token: int) -> None:
        """The output goes on with an allowed `token`."""
        if not self._state.consume_token(token):
            raise InvalidGrammar(f"the output left its grammar: {_first_lines(self._state.get_error())}")

    @property
    def written(self) -> bool:
        """The output is to be one tool call, and that is complete now."""
        return self._tool_call and bool(self._state.is_accepting())

    @property
    def complete(self) -> bool:
        """Nothing can follow: the output is a sentence of the grammar."""
        stopped: bool = self._state.is_stopped()
        return stopped


class GrammarCompiler:
    """Makes matchers for one tokenizer; keeps the compiled form of the grammars used last."""

    def __init__(self, tokenizer_json: str, vocab_size: int, eos_ids: tuple[int, ...]) -> None:
        eos = list(eos_ids) if eos_ids else None
        self._tokenizer = LLTokenizer(tokenizer_json, n_vocab=vocab_size, eos_token=eos)
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the start of `grammar`. Raises `InvalidGrammar` that says where the fault is."""
        compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = self._compile(grammar)
            self._compiled[grammar] = compiled
            if len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(grammar)
        return Matcher(compiled.deep_copy(), tool_call=grammar.tool_call)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        if grammar.kind == GrammarKind.JSON_SCHEMA:
            source = _json_schema(grammar.source)
        elif grammar.kind == GrammarKind.REGEX:
            # As in JSON Schema, \d means 0-9, not the digits of all scripts.
            regex = regex_to_lark(grammar.source, "d")
            source = LLMatcher.grammar_from_lark(f"start: /{regex}/")
        elif grammar.kind == GrammarKind.LARK:
            source = LLMatcher.grammar_from_lark(grammar.source)
        else:
            kinds = ", ".join(GrammarKind)
            raise InvalidGrammar(f"grammar kind {grammar.kind!r} is unknown: one of {kinds}")
        compiled = LLMatcher(self._tokenizer, source, log_level=0)
        if compiled.is_error():
            message = _first_lines(compiled.get_error())
            if grammar.kind == GrammarKind.JSON_SCHEMA:
                message = _located(message, json.loads(grammar.source))
            raise InvalidGrammar(f"{grammar.kind}: {message}")
        return compiled


def _json_schema(source: str) -> str:
    try:
        schema = json.loads(source)
    except json.JSONDecodeError as error:
        raise InvalidGrammar(f"json_schema: not JSON: {error}") from None
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise InvalidGrammar(f"json_schema: a schema is an object or true, not {source[:80]!r}")
    compiled: str = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _JSON_SPACE})
    return compiled


def _first_lines(message: str) -> str:
    """The message without the parser's state, which may follow it."""
    return message.split("\n<state>", 1)[0].strip()


def _located(message: str, schema: Any) -> str:
    """Add the JSON pointers of the keywords and values that the message quotes."""
    words = set(re.findall(r'"([^"]+)"', message)) or set(message.split(": ")[-1:])
    places = [pointer for pointer, key, value in _walk(schema, "") if key in words or value in words]
    return f"{message} (at {', '.join(places[:5])})" if places else message


def _walk(value: Any, pointer: str) -> Iterator[tuple[str, str, str | None]]:
    """(RFC 6901 pointer, key, value if it is a string) of everything inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        place = f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"
        yield place, str(key), item if isinstance(item, str) else None
        yield from _walk(item, place)
