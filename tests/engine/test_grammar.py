"""Constrained outputs always parse and end by themselves; faulty grammars are refused where they are wrong."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from engine.clock import ManualClock
from engine.config import EngineConfig
from engine.grammar import GrammarCompiler
from engine.loading import load_engine
from engine.local import LocalEngine
from engine.protocol import (
    ChatMessage,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    InvalidGrammar,
    SamplingParams,
)
from engine.text import TextCodec
from tests.engine.serve import Result, collect, request, serve

SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": {
        "type": "object",
        "properties": {
            "ok": {"type": "boolean"},
            "kind": {"enum": ["city", "länd", 'a"b']},
            "rank": {"type": "integer", "minimum": -5, "maximum": 1200},
        },
        "required": ["ok", "kind", "rank"],
        "additionalProperties": False,
    },
    "nested": {
        "$defs": {"point": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}},
        "type": "object",
        "properties": {"points": {"type": "array", "items": {"$ref": "#/$defs/point"}, "maxItems": 3}},
        "required": ["points"],
        "additionalProperties": False,
    },
    "strings": {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 4},
    "alternatives": {"anyOf": [{"type": "null"}, {"const": "x"}, {"type": "string", "pattern": "^[a-c]{2,6}$"}]},
}
LARK = """
start: "SELECT " columns " FROM " TABLE where?
columns: COLUMN (", " COLUMN){0,2}
where: " WHERE " COLUMN " = " VALUE
COLUMN: "name" | "population"
TABLE: "city" | "country"
VALUE: /[0-9]{1,4}/ | /'[a-z]{0,6}'/
"""
_LARK_LANGUAGE = re.compile(
    r"SELECT (name|population)(, (name|population)){0,2} FROM (city|country)"
    r"( WHERE (name|population) = ([0-9]{1,4}|'[a-z]{0,6}'))?"
)


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> LocalEngine:
    return load_engine(EngineConfig(str(model_dir), threads=1), ManualClock())


def outputs(engine: LocalEngine, grammar: Grammar, seeds: int = 12, **sampling: Any) -> list[Result]:
    """The outputs of one batch of differently seeded requests, hot enough to try everything that is allowed."""
    asked = [
        GenerateRequest(
            f"r{seed}",
            "p",
            messages=(ChatMessage("user", "go"),),
            sampling=SamplingParams(**{"max_tokens": 150, "temperature": 2.0, "seed": seed, **sampling}),
            grammar=grammar,
        )
        for seed in range(seeds)
    ]
    results = list(serve(engine, *asked).values())
    assert len(results) == seeds and not any(result.error for result in results)
    return results


@pytest.mark.parametrize("name", SCHEMAS)
def test_json_always_validates(engine: LocalEngine, name: str) -> None:
    schema = SCHEMAS[name]
    for result in outputs(engine, Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))):
        assert result.finish is FinishReason.STOP
        jsonschema_rs.validate(schema, json.loads(result.text))


def test_any_json_is_a_schema_too(engine: LocalEngine) -> None:
    for result in outputs(engine, Grammar(GrammarKind.JSON_SCHEMA, "true"), max_tokens=60):
        if result.finish is FinishReason.STOP:
            json.loads(result.text)


@pytest.mark.parametrize("regex", [r"[a-f]{3}-\d{2}", r"(ja|nein|vielleicht)", r"é+x?日{1,3}", r"a/b\\/?"])
def test_regex_always_matches(engine: LocalEngine, regex: str) -> None:
    texts = set()
    for result in outputs(engine, Grammar(GrammarKind.REGEX, regex)):
        assert re.fullmatch(regex, result.text) or result.finish is FinishReason.LENGTH
        texts.add(result.text)
    assert len(texts) > 1


def test_lark_always_parses(engine: LocalEngine) -> None:
    results = outputs(engine, Grammar(GrammarKind.LARK, LARK))
    assert all(_LARK_LANGUAGE.fullmatch(result.text) for result in results)
    assert len({result.text for result in results}) > 4


def test_a_complete_output_ends_even_if_ends_are_ignored(engine: LocalEngine) -> None:
    for result in outputs(engine, Grammar(GrammarKind.REGEX, "abc"), ignore_eos=True, temperature=0.0, seeds=2):
        assert (result.text, result.finish) == ("abc", FinishReason.STOP)


def test_constrained_and_free_requests_share_a_batch(engine: LocalEngine) -> None:
    def free(name: str) -> GenerateRequest:
        sampling = SamplingParams(max_tokens=20, ignore_eos=True)
        return GenerateRequest(name, "p", messages=(ChatMessage("user", "free"),), sampling=sampling)

    bound = GenerateRequest(
        "bound", "p", messages=(ChatMessage("user", "b"),), grammar=Grammar(GrammarKind.REGEX, "xyz")
    )
    alone = serve(engine, free("alone"))["alone"]
    together = serve(engine, free("one"), bound, free("two"))
    assert together["bound"].text == "xyz"
    assert together["one"].ids == together["two"].ids == alone.ids


@pytest.mark.parametrize(
    ("kind", "source", "where"),
    [
        (GrammarKind.LARK, 'start: "a" b\n', '1(8): unknown name: "b"'),
        (GrammarKind.LARK, 'start: "a" )\n', "1(12)"),
        (GrammarKind.REGEX, "a[bc", "unclosed character class"),
        (GrammarKind.JSON_SCHEMA, '{"type": }', "line 1 column 10"),
        (GrammarKind.JSON_SCHEMA, "[1]", "an object or true"),
        (GrammarKind.JSON_SCHEMA, '{"type":"object","properties":{"a/b":{"type":"objekt"}}}', "/properties/a~1b/type"),
        (GrammarKind.JSON_SCHEMA, '{"items":{"if":{}}}', "/items/if"),
        (GrammarKind.JSON_SCHEMA, '{"$ref":"#/nowhere"}', "/nowhere"),
        ("ebnf", "x", "one of json_schema, regex, lark"),
    ],
)
def test_a_faulty_grammar_is_refused_where_it_is_wrong(engine: LocalEngine, kind: Any, source: str, where: str) -> None:
    asked = GenerateRequest("bad", "p", messages=(ChatMessage("user", "x"),), grammar=Grammar(kind, source))
    with pytest.raises(InvalidGrammar) as raised:
        engine.submit(asked)
    assert where in str(raised.value)
    assert not engine.has_work


def test_a_grammar_is_compiled_once(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = TextCodec(model_dir)
    compiler = GrammarCompiler(codec.to_json(), 400, codec.eos_ids)
    compiled = []
    compile_grammar = compiler._compile
    monkeypatch.setattr(compiler, "_compile", lambda grammar: compiled.append(grammar) or compile_grammar(grammar))
    first = compiler.matcher(Grammar(GrammarKind.REGEX, "ab"))
    first.accept(codec.encode("a")[0])
    second = compiler.matcher(Grammar(GrammarKind.REGEX, "ab"))
    assert len(compiled) == 1
    assert first.allowed() != second.allowed(), "two outputs share one state"
    for index in range(200):
        compiler.matcher(Grammar(GrammarKind.REGEX, f"a{index}"))
    assert len(compiler._compiled) < 200, "compiled grammars pile up"


def test_a_token_outside_the_grammar_is_an_error(model_dir: Path) -> None:
    codec = TextCodec(model_dir)
    matcher = GrammarCompiler(codec.to_json(), 400, codec.eos_ids).matcher(Grammar(GrammarKind.REGEX, "ab"))
    with pytest.raises(InvalidGrammar, match="left its grammar"):
        matcher.accept(codec.encode("z")[0])


def test_a_grammar_that_grows_too_complex_fails_its_request_only(engine: LocalEngine) -> None:
    first, second = (
        GenerateRequest(name, "p", messages=(ChatMessage("user", "x"),), grammar=Grammar(GrammarKind.REGEX, "[a-z]{9}"))
        for name in ("first", "second")
    )
    engine.submit(first)
    engine.submit(second)
    matcher = engine._outputs["first"].sequence.matcher
    assert matcher is not None
    matcher._state.consume_token(engine._codec.encode("9")[0])  # what a limit of the parser leaves behind
    results: dict[str, Result] = {}
    collect(engine, results)
    assert isinstance(results["first"].error, InvalidGrammar)
    assert re.fullmatch("[a-z]{9}", results["second"].text)


def test_a_complete_tool_call_ends_the_output(model_dir: Path) -> None:
    """Without `tool_call` the model may go on with whitespace or another call; with it the first one ends the turn."""
    grammar = 'start: call+\ncall: "<call>" /[a-c]/ "</call>"'
    engine = load_engine(EngineConfig(str(model_dir), threads=1), ManualClock())
    asked = [
        replace(request(name, [5, 6, 7], 60), grammar=Grammar(GrammarKind.LARK, grammar, tool_call=early))
        for name, early in (("early", True), ("late", False))
    ]
    results = serve(engine, *asked)
    assert results["early"].finish is FinishReason.TOOL_CALL
    assert re.fullmatch("<call>[a-c]</call>", results["early"].text)
    assert results["late"].finish is not FinishReason.TOOL_CALL
