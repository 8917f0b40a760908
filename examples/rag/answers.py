"""What goes from call to call in the program for documents, and how quotes become an answer. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from examples.rag.checks import checked
from examples.rag.documents import Passage
from examples.rag.index import Hit, Index
from examples.rag.prompts import NONE, quote_prompt
from examples.rag.wording import Titles, align, names_in, normal, restore

SEARCHES = 3
"""A question asks for at most so many searches."""
_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
"""What a list's lines begin with."""
_CHOSEN = re.compile(r"\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the names in it and its normal form."""

    text: str
    names: list[str]
    normal: str


@dataclass(frozen=True, slots=True)
class Search:
    """One thing to look for: `text` as the model planned it, the names in it, and how to say it to people: a plan
    with words that the model does not know (`x`) is told in those of the question."""

    text: str
    names: list[str]
    said: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A passage as a model sees it: `text` for any, `normal` for the bundled one. `grammar` allows its sentences;
    `version` is that of its document. With `led`, the first of the sentences is that of the document."""

    passage: str
    doc: str
    title: str
    sentences: list[str]
    text: str
    normal: str
    grammar: str
    version: str = ""
    led: bool = False

    def source(self, number: int) -> str:
        """The passage that sentence `number` (from 0) stands in."""
        return f"{self.doc}#1" if self.led and number == 0 else self.passage


@dataclass(frozen=True, slots=True)
class Citation:
    """A sentence of a document, word for word, and what it answers."""

    quote: str
    doc: str
    passage: str
    title: str
    search: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Quotes with their documents. `missing`: searches that no document answers."""

    text: str
    citations: list[Citation] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read(question: str, titles: Titles, vocabulary: Collection[str]) -> Question:
    """The question as the bundled model reads it, with names as the documents spell them."""
    text = align(question, titles)
    names = names_in(text, titles, vocabulary=vocabulary)
    return Question(text, names, normal(text, names))


def planned(question: Question, plan: str, titles: Titles) -> list[Search]:
    """The searches of a model's plan, one a line or parted by `;`; the question itself if it wrote none."""
    texts = [restore(_MARK.sub("", part), question.names).strip() for part in re.split(r"[;\n]", plan)]
    texts = list(dict.fromkeys(text for text in texts if text))
    wanted = checked(texts, question.text, question.normal, question.names)[:SEARCHES] if texts else [question.text]
    return [
        Search(text, _names(text, question.names, titles), question.text if re.search(r"\bx\b", text) else text)
        for text in wanted
    ]


def _names(text: str, known: Sequence[str], titles: Titles) -> list[str]:
    """The names of a search: those of the question that it has, else those that it brings."""
    found = [name for name in known if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)]
    return found or names_in(text, titles)


def show(search: Search, passage: Passage) -> Shown:
    """The passage as a model is asked about it."""
    sentences = [*([passage.lead] if passage.lead else ()), *passage.sentences]
    numbered = "\n".join(f"[{n}] {sentence}" for n, sentence in enumerate(sentences, 1))
    choices = [f"[{n}] {sentence}" for n, sentence in enumerate(sentences, 1)] + [NONE]
    return Shown(
        passage.id,
        passage.doc,
        passage.title,
        sentences,
        f"{passage.title}\n{numbered}",
        quote_prompt(search.text, search.names, passage.title, sentences),
        "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices),
        passage.version,
        bool(passage.lead),
    )


def rerank(search: Search, index: Index, lists: Sequence[Sequence[Hit]]) -> list[Shown]:
    """The best passages of several lists, as a model is asked about them."""
    return [show(search, index.passages[hit.passage]) for hit in index.fuse(search.names, lists)]


def cite(searches: Sequence[Search], shown: Sequence[Sequence[Shown]], quotes: Sequence[Sequence[str]]) -> Answer:
    """The answer: for each search the quote of its best passage, titles that the search names first."""
    citations: list[Citation] = []
    missing: list[str] = []
    for search, passages, written in zip(searches, shown, quotes, strict=True):
        names = {name.lower() for name in search.names}
        found = [
            (passage.title.lower() not in names, rank, passage, number)
            for rank, (passage, text) in enumerate(zip(passages, written, strict=True))
            if (number := _quoted(passage, text)) is not None
        ]
        if not found:
            missing.append(search.said)
            continue
        _, _, passage, number = min(found, key=lambda item: item[:2])
        quote, source = passage.sentences[number], passage.source(number)
        citations.append(Citation(quote, passage.doc, source, passage.title, search.said))
    parts = [f"{citation.quote} [{n}]" for n, citation in enumerate(citations, 1)]
    parts += [f"{text}: not in the documents." for text in missing]
    return Answer(" ".join(parts) if citations else "That is not in the documents.", citations, missing)


def _quoted(passage: Shown, text: str) -> int | None:
    """Which sentence (from 0) a model's text quotes; None for `NONE` and whatever is no sentence of the passage."""
    found = _CHOSEN.match(text.strip())
    if found is None or not 1 <= int(found.group(1)) <= len(passage.sentences):
        return None
    return int(found.group(1)) - 1
