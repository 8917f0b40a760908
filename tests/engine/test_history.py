"""Ended chains: extended by their own ids, named by requests, let go of when there are too many."""

from __future__ import annotations

from collections.abc import Sequence

from engine.history import Chain, History


class Letters:
    """A tokenizer whose ids are characters, but which merges "ab" when it sees it whole."""

    def encode(self, text: str) -> list[int]:
        ids = []
        while text:
            merged = text.startswith("ab")
            ids.append(1 if merged else ord(text[0]))
            text = text[2 if merged else 1 :]
        return ids

    def spell(self, ids: Sequence[int]) -> str:
        return "".join("ab" if one == 1 else chr(one) for one in ids)


def chain(prompt: str, output: list[int], request: str = "r") -> Chain:
    ids = Letters().encode(prompt)
    return Chain(request, "", ids + output, len(ids), len(ids) + len(output) - 1, [], prompt)


def test_generated_ids_are_kept_however_the_tokenizer_would_cut_them() -> None:
    output = [ord("a"), ord("b"), ord("c")]  # the tokenizer would say "ab" in one
    ended = chain("x:", output)
    assert ended.extended(Letters(), "x:abc|ab") == ([*ended.tokens, ord("|"), 1], 5)
    assert Letters().encode("x:abc") != ended.tokens


def test_ids_beyond_the_delivered_text_are_left_out() -> None:
    ended = chain("x:", [ord(c) for c in "hi STOP"])
    extended = ended.extended(Letters(), "x:hi|go")
    assert extended == ([ord(c) for c in "x:hi|go"], 4)


def test_an_output_that_is_spelled_differently_is_tokenized_again_and_its_prompt_is_not() -> None:
    ended = chain("x:", [ord(c) for c in "hello"])
    assert ended.extended(Letters(), "x:HELLO") == ([ord(c) for c in "x:HELLO"], 2)


def test_another_prompt_is_no_continuation() -> None:
    assert chain("x:", [5]).extended(Letters(), "y:") is None
    assert Chain("r", "", [1, 2, 3], 2, 2, []).extended(Letters(), "anything") is None, "its text is not known"


def test_ids_continue_as_far_as_they_are_the_same() -> None:
    ended = Chain("r", "", [1, 2, 3, 4], 2, 3, [])
    assert [ended.common(ids) for ids in ([1, 2, 3, 4, 9], [1, 2, 9], [9, 2, 3, 4])] == [4, 2, 0]


def test_the_oldest_chains_go_first() -> None:
    history = History(max_chains=3, max_tokens=10)
    for name in "abcd":
        history.add(Chain(name, "", [1, 2], 1, 1, []))
    assert history.get("a") is None and history.get("d") is not None and len(history) == 3
    history.add(Chain("long", "", [1] * 9, 1, 1, []))
    assert history.get("long") is not None and len(history) == 1
    history.add(Chain("long", "", [1] * 3, 1, 1, []))
    history.add(Chain("more", "", [1] * 7, 1, 1, []))
    assert len(history) == 2, "a chain that is replaced is counted once"
