"""The question generator: its splits, its SQL under the grammar and on the database, and repairs."""

from __future__ import annotations

import random
from pathlib import Path

import llguidance
import pytest
from llguidance.hf import from_tokenizer
from transformers import PreTrainedTokenizerFast

from examples.text_to_sql.database import check_select, run_sql
from examples.text_to_sql.faults import FAULTS
from examples.text_to_sql.geography import build
from examples.text_to_sql.linking import unused
from examples.text_to_sql.sql_grammar import SQL_GRAMMAR
from examples.text_to_sql.train.dataset import Example, Generator, Split
from examples.text_to_sql.train.repairs import fault_of, repairs, spoil
from examples.text_to_sql.train.tokenizer import ANSWER, EOS, SPECIAL, prompt, save_tokenizer, train_tokenizer

COUNT = 400


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("geography") / "geography.db")


@pytest.fixture(scope="module")
def generator(database: Path) -> Generator:
    return Generator(database)


@pytest.fixture(scope="module")
def examples(generator: Generator) -> list[Example]:
    return list(generator.generate("train", COUNT, 0))


class Grammar:
    """Accepts or refuses whole texts, token by token, as the engine does."""

    def __init__(self, texts: list[str]) -> None:
        self.tokenizer = train_tokenizer(texts)
        self._guide = from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, eos_token=EOS))
        self._grammar = llguidance.LLMatcher.grammar_from_lark(SQL_GRAMMAR)
        assert not llguidance.LLMatcher.validate_grammar(self._grammar, self._guide)

    def accepts(self, sql: str) -> bool:
        matcher = llguidance.LLMatcher(self._guide, self._grammar)
        ids = self.tokenizer.encode(sql, add_special_tokens=False).ids
        return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()


@pytest.fixture(scope="module")
def grammar(examples: list[Example]) -> Grammar:
    return Grammar([text for one in examples for text in (" " + one.linked.text, one.sql)])


def test_the_same_seed_gives_the_same_examples(generator: Generator, examples: list[Example]) -> None:
    again = [(one.question, one.sql) for one in generator.generate("train", 50, 0)]
    assert again == [(one.question, one.sql) for one in examples[:50]]
    other = [one.question for one in generator.generate("train", 50, 1)]
    assert other != [one.question for one in examples[:50]]


def test_splits_share_no_question_and_unseen_shapes_no_shape(generator: Generator, examples: list[Example]) -> None:
    held: dict[Split, list[Example]] = {
        split: list(generator.generate(split, 60, 0)) for split in ("generated", "unseen_shapes")
    }
    texts = {one.linked.text for one in examples}
    assert len(texts) == COUNT
    assert not texts & {one.linked.text for one in held["generated"]}
    shapes = {one.shape for one in [*examples, *held["generated"]]}
    assert not shapes & {one.shape for one in held["unseen_shapes"]}


def test_all_training_sql_runs_uses_every_value_and_is_in_the_grammar(
    database: Path, examples: list[Example], grammar: Grammar
) -> None:
    for one in examples:
        assert grammar.accepts(one.sql), one.sql
        assert not unused(one.sql, one.linked.values), one
    for one in examples[::8]:
        check_select(one.gold)
        run_sql(database, one.gold, seconds=30.0)


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE cities",
        "INSERT INTO states VALUES (1)",
        "UPDATE cities SET population = 0",
        "SELECT name FROM users",
        "SELECT secret FROM cities",
        "SELECT name FROM cities; DROP TABLE cities",
        "SELECT name FROM cities WHERE name = 'Paris'",
        "PRAGMA table_info(cities)",
        "SELECT name FROM cities WHERE",
    ],
)
def test_the_grammar_refuses_everything_else(grammar: Grammar, sql: str) -> None:
    assert not grammar.accepts(sql)


def test_most_questions_find_something(database: Path, examples: list[Example]) -> None:
    faults = [fault_of(database, one, one.sql) for one in examples[:80]]
    assert faults.count("") > 60


def test_repairs_are_of_failures_that_the_program_sees(database: Path, examples: list[Example]) -> None:
    found = repairs(database, examples[:60], [], random.Random(0))
    assert len(found) > 10
    answers = {one.sql for one in examples}
    for text, sql in found:
        bad, fault = text.split("<bad> ")[1].split("<err> ")
        assert sql in answers and bad != sql and fault in FAULTS
    first = examples[0]
    assert fault_of(database, first, "SELECT nothing FROM cities") == "error"
    assert fault_of(database, first, "SELECT name FROM cities WHERE state = state4") == "placeholder"


def test_spoiling_changes_most_sql_and_is_seeded(examples: list[Example]) -> None:
    spoilt = [spoil(random.Random(7), one.sql, "") for one in examples]
    assert sum(new != one.sql for new, one in zip(spoilt, examples, strict=True)) > COUNT / 3
    assert spoilt == [spoil(random.Random(7), one.sql, "") for one in examples]


def test_the_tokenizer_keeps_text_and_knows_control_tokens(grammar: Grammar, examples: list[Example]) -> None:
    tokenizer = grammar.tokenizer
    for text in [examples[0].sql, "which country1 cities", "ünïcode 漢字 'quoted'"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    ids = tokenizer.encode(prompt("<sql>", "cities in country1")).ids
    assert tokenizer.id_to_token(ids[0]) == "<sql>" and tokenizer.id_to_token(ids[-1]) == ANSWER
    assert all(tokenizer.token_to_id(token) is not None for token in SPECIAL)


def test_the_chat_template_keeps_the_user_and_drops_the_system(grammar: Grammar, tmp_path: Path) -> None:
    save_tokenizer(grammar.tokenizer, tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<sql> cities in country1"}]
    rendered = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == prompt("<sql>", "cities in country1")
