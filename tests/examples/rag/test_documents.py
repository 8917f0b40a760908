"""Documents of every kind become passages; bad ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.rag.documents import SENTENCES, DocumentError, read_folder, split_sentences

PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 100]/Resources<</Font<</F1 5 0 R>>>>/Contents 4 0 R>>endobj\n"
    b"4 0 obj<</Length 64>>stream\nBT /F1 12 Tf 10 50 Td (Ferries leave at noon. They are slow.) Tj ET\n"
    b"endstream endobj\n"
    b"5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\ntrailer<</Root 1 0 R>>\n"
    b"startxref\n0\n%%EOF\n"
)


def test_every_kind_of_document_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("First one. Second one.\n\nAnother paragraph.")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.md").write_text("# The *harbour*\n\nIt has **two** piers.\n\n- A crane.\n- A shed.\n")
    (tmp_path / "c.html").write_text(
        "<html><head><title>T</title><style>p {}</style></head><body><h1>Tides</h1><p>High at six.</p>"
        "<nav><p>Menu</p></nav><table><tr><td>low</td><td>noon</td></tr></table></body></html>"
    )
    (tmp_path / "d.pdf").write_bytes(PDF)
    (tmp_path / "e.jpg").write_bytes(b"\xff")
    found = {(p.id, p.title): p.sentences for p in read_folder(tmp_path)}
    assert found == {
        ("a.txt#1", "a"): ("First one.", "Second one."),
        ("a.txt#2", "a"): ("Another paragraph.",),
        ("c.html#1", "Tides"): ("High at six.",),
        ("c.html#2", "Tides"): ("low noon",),
        ("d.pdf#1", "d"): ("Ferries leave at noon.", "They are slow."),
        ("deep/b.md#1", "The harbour"): ("It has two piers.",),
        ("deep/b.md#2", "The harbour"): ("A crane.",),
        ("deep/b.md#3", "The harbour"): ("A shed.",),
    }


def test_long_paragraphs_are_cut(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" ".join(f"Sentence {n} is here." for n in range(SENTENCES + 3)))
    assert [len(p.sentences) for p in read_folder(tmp_path)] == [SENTENCES, 3]


def test_later_passages_know_what_their_document_is_about(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Tides\n\nThe tides are high.\n\nThey turn at noon.\n")
    (tmp_path / "b.md").write_text("# Piers\n\nThere are two.\n\nThey are old.\n")
    assert [p.lead for p in read_folder(tmp_path)] == ["", "The tides are high.", "", ""]


def test_abbreviations_and_numbers_end_no_sentence() -> None:
    text = "Dr. Ada lives at St. Anne. It costs 3.5 euros, e.g. in May. J. Smith knows!  Does he?"
    assert split_sentences(text) == [
        "Dr. Ada lives at St. Anne.",
        "It costs 3.5 euros, e.g. in May.",
        "J. Smith knows!",
        "Does he?",
    ]
    assert split_sentences("  ") == []


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="there is no such folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(DocumentError, match="holds no documents"):
        read_folder(tmp_path)
    (tmp_path / "bad.pdf").write_bytes(b"not a pdf")
    with pytest.raises(DocumentError, match=r"bad\.pdf: cannot be read"):
        read_folder(tmp_path)
