"""A folder of documents as passages: reads text, Markdown, HTML and PDF files, and splits them into sentences.

Owns what a passage is. Never searches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

SENTENCES = 4
"""A passage has at most so many sentences, and its document's first: longer paragraphs are cut into equal parts."""
LEAD = 160
"""A first sentence of more letters is not shown again with later passages."""
_END = re.compile(r"(?<=[.!?])[\"'”)]?\s+(?=[\"'“(]?[A-Z0-9ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞ])")
_ABBREVIATION = re.compile(r"(?:\b(?:[A-Z]|St|Dr|Mr|Mrs|Ms|No|vs|approx|ca|e\.g|i\.e|etc))\.$")
SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf")


class DocumentError(ValueError):
    """A folder or file that cannot be read; the message names it."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph. `doc` is the file's path in its folder, `number` counts its passages from 1, `version` is a digest
    of the file. `lead` is the document's first sentence, where the passage is a later one and the sentence names what
    the document is about: then a reader knows what `it` is."""

    doc: str
    title: str
    number: int
    sentences: tuple[str, ...]
    version: str = ""
    lead: str = ""

    @property
    def id(self) -> str:
        return f"{self.doc}#{self.number}"

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


def read_folder(folder: Path) -> list[Passage]:
    """All passages of the folder's documents, in the order of their paths. Raises `DocumentError`."""
    if not folder.is_dir():
        raise DocumentError(f"{folder}: there is no such folder")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise DocumentError(f"{folder}: holds no documents ({', '.join(SUFFIXES)})")
    return [passage for file in files for passage in read_file(file, file.relative_to(folder).as_posix())]


def read_file(path: Path, doc: str) -> list[Passage]:
    """The passages of one file. Raises `DocumentError`."""
    readers = {".md": _markdown, ".markdown": _markdown, ".html": _html, ".htm": _html, ".pdf": _pdf}
    try:
        version = blake2b(path.read_bytes(), digest_size=8).hexdigest()
        title, paragraphs = readers.get(path.suffix.lower(), _text)(path)
    except (OSError, ValueError) as error:
        raise DocumentError(f"{path}: cannot be read: {error}") from error
    passages: list[Passage] = []
    for paragraph in paragraphs:
        sentences = split_sentences(paragraph)
        size = -(-len(sentences) // max(1, -(-len(sentences) // SENTENCES)))
        for start in range(0, len(sentences), size or 1):
            part = tuple(sentences[start : start + size])
            first = passages[0].sentences[0] if passages else ""
            lead = first if title and title.lower() in first.lower() and len(first) <= LEAD else ""
            passages.append(Passage(doc, title or path.stem, len(passages) + 1, part, version, lead))
    return passages


def split_sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph; abbreviations and initials end none."""
    sentences: list[str] = []
    for piece in _END.split(" ".join(paragraph.split())):
        if sentences and _ABBREVIATION.search(sentences[-1]):
            sentences[-1] += f" {piece}"
        elif piece:
            sentences.append(piece)
    return sentences


def _text(path: Path) -> tuple[str, Sequence[str]]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return "", re.split(r"\n\s*\n", text)


def _markdown(path: Path) -> tuple[str, Sequence[str]]:
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark").enable("table").render(path.read_text(encoding="utf-8", errors="replace"))
    return _from_html(html)


def _html(path: Path) -> tuple[str, Sequence[str]]:
    return _from_html(path.read_bytes())


def _from_html(source: str | bytes) -> tuple[str, list[str]]:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(source, "html.parser")
    for tag in soup(["script", "style", "nav", "header", "footer", "noscript"]):
        tag.decompose()
    heading = soup.find("h1") or soup.find("title")
    title = heading.get_text(" ", strip=True) if heading else ""
    return title, list(_blocks(soup))


def _blocks(soup: object) -> Iterator[str]:
    """Texts of paragraphs, list items and table rows; those inside others are told once."""
    from bs4 import BeautifulSoup

    assert isinstance(soup, BeautifulSoup)
    names = ["p", "li", "tr", "blockquote", "pre", "dd"]
    found = [tag for tag in soup.find_all(names) if tag.find_parent(names) is None]
    for tag in found:
        if text := tag.get_text(" ", strip=True):
            yield text
    if not found and (text := soup.get_text(" ", strip=True)):
        yield text


def _pdf(path: Path) -> tuple[str, Sequence[str]]:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(path)
        title = (reader.metadata.title if reader.metadata else None) or ""
        pages = [page.extract_text() for page in reader.pages]
    except PyPdfError as error:
        raise ValueError(str(error)) from error
    return title, [part for page in pages for part in re.split(r"\n\s*\n", page)]
