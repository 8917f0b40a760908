"""Keyword and vector search, their fusion, and the default corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.rag import library
from examples.rag.corpus import WORDINGS, World, render
from examples.rag.documents import Passage, read_file
from examples.rag.index import Index

PASSAGES = [
    Passage("peru.md", "Peru", 1, ("Peru lies in South America.", "Its capital is Lima.")),
    Passage("peru.md", "Peru", 2, ("People pay with the Sol.",)),
    Passage("chile.md", "Chile", 1, ("Chile lies in South America.", "Its capital is Santiago.")),
    Passage("lima.md", "Lima", 1, ("Lima is the capital of Peru.",)),
]


@pytest.fixture(scope="module")
def index() -> Index:
    return Index(PASSAGES)


def test_keywords_find_words_and_nothing_where_there_are_none(index: Index) -> None:
    assert {hit.passage for hit in index.keyword("Santiago")} == {2}
    assert index.keyword("zzz") == []


def test_vectors_find_near_spellings(index: Index) -> None:
    assert index.vector("santiagos")[0].passage == 2


def test_fusion_prefers_documents_that_the_search_names(index: Index) -> None:
    hits = index.fuse(["Peru"], [index.keyword("money of Peru"), index.vector("money of Peru")])
    assert {hit.passage for hit in hits[:2]} == {0, 1}
    assert {hit.passage for hit in index.fuse(["Chile"], [[], []])} == {2}
    assert len(index.fuse([], [index.vector("capital")], 2)) == 2


def test_the_corpus_states_every_fact_once_in_varied_words(tmp_path: Path) -> None:
    pages = render(World())
    facts = [fact for page in pages for part in page.paragraphs for sentence in part for fact in sentence.facts]
    assert len(pages) > 2000 and {fact.relation for fact in facts} == set(WORDINGS)
    france = next(page for page in pages if page.name == "countries/france")
    said = france.markdown()
    assert "Paris" in said and "66,987,244" in said and "Euro" in said
    other = next(page for page in render(World(), "other") if page.name == "countries/france")
    assert other.markdown() != said
    path = tmp_path / "france.md"
    path.write_text(said)
    read = [sentence for passage in read_file(path, "france.md") for sentence in passage.sentences]
    assert read == [sentence.text for part in france.paragraphs for sentence in part]


def test_a_changed_folder_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENUTO_DOCS", str(tmp_path))
    (tmp_path / "a.txt").write_text("The ferry leaves at noon. It is blue.")
    (tmp_path / "b.txt").write_text("The harbour is closed on Mondays.")
    first = library.index()
    assert len(first.passages) == 2 and library.index() is first
    monkeypatch.setattr(library, "LOOK_S", 0.0)
    assert library.index() is first
    (tmp_path / "c.txt").write_text("The crane is new.")
    second = library.index()
    assert len(second.passages) == 3
    (tmp_path / "c.txt").write_text("The crane is not new any more.")
    assert library.index().passages[2].version != second.passages[2].version
