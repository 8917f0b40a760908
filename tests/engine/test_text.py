"""Text of an output as it comes: whole characters, exactly the decoding of all ids, stop strings, chat templates."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine.protocol import ChatMessage, InvalidRequest
from engine.text import TextCodec, TextStream

_CHARACTERS = "aé日🙂 \n"


@pytest.fixture(scope="module")
def codec(model_dir: Path) -> TextCodec:
    return TextCodec(model_dir)


def pieces(stream: TextStream, ids: list[int]) -> list[str]:
    out = []
    for token in ids:
        out.append(stream.push(token))
        if stream.stopped:
            return out
    return [*out, stream.flush()]


@given(text=st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_pieces_are_whole_characters_and_join_to_the_text(codec: TextCodec, text: str) -> None:
    out = pieces(codec.stream(), codec.encode(text))
    assert "".join(out) == text
    assert not any("\ufffd" in piece for piece in out) or "\ufffd" in text


def test_random_bytes_join_to_the_decoding_of_all_ids(codec: TextCodec) -> None:
    rng = random.Random(5)
    for _ in range(200):
        ids = [rng.randrange(4, codec.vocab_size) for _ in range(rng.randrange(1, 120))]
        assert "".join(pieces(codec.stream(), ids)) == codec.decode(ids)


def test_every_character_comes_with_its_last_byte(codec: TextCodec) -> None:
    ids = codec.encode("🚀" * 3)
    assert len(ids) >= 6, "the tokenizer knows the character: nothing is split"
    out = pieces(codec.stream(), ids)
    assert [piece for piece in out if piece] == ["🚀"] * 3 and out[-1] == ""


def test_invalid_bytes_are_not_held_for_ever(codec: TextCodec) -> None:
    byte = next(i for i in range(4, codec.vocab_size) if codec.decode([i]) == "\ufffd")
    stream = codec.stream()
    assert sum(len(stream.push(byte)) for _ in range(100)) >= 90


def test_sentencepiece_style_spaces_survive_the_window() -> None:
    words = ["▁the", "▁fox", "jump", "s", "<0xE6>", "<0x97>", "<0xA5>"]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    codec = TextCodec.__new__(TextCodec)
    codec._tokenizer = tokenizer
    ids = [0, 1, 2, 3, 4, 5, 6] * 12
    assert "".join(pieces(codec.stream(), ids)) == tokenizer.decode(ids)


@given(
    text=st.text(alphabet=_CHARACTERS, min_size=1, max_size=40),
    stops=st.lists(st.text(alphabet=_CHARACTERS, min_size=1, max_size=4), min_size=1, max_size=3),
)
@settings(max_examples=300, deadline=None)
def test_text_ends_before_the_first_stop_string(codec: TextCodec, text: str, stops: list[str]) -> None:
    stream = codec.stream(stops)
    out = pieces(stream, codec.encode(text))
    found = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    assert stream.stopped == bool(found)
    # A stop string ends the text as soon as it is there: a longer one that began earlier had not ended yet.
    joined = "".join(out)
    assert text.startswith(joined)
    assert not any(stop in joined for stop in stops)
    assert bool(found) or joined == text


def test_only_what_may_begin_a_stop_string_is_held(codec: TextCodec) -> None:
    stream = codec.stream(["STOP"])
    assert "".join(stream.push(token) for token in codec.encode("a ST")) == "a "
    assert "".join(stream.push(token) for token in codec.encode("AR")) == "STAR"


def test_chat_template_and_specials(codec: TextCodec) -> None:
    text = codec.render([ChatMessage("system", "be brief"), ChatMessage("user", "hi")])
    assert text == "<|system|>be brief<|end|>\n<|user|>hi<|end|>\n<|assistant|>"
    ids = codec.encode(text)
    assert ids[0] == 1 and ids[-1] == 3 and codec.eos_ids == (0,)


def with_template(model_dir: Path, tmp_path: Path, source: str) -> TextCodec:
    directory = Path(shutil.copytree(model_dir, tmp_path / "model"))
    (directory / "chat_template.jinja").write_text(source)
    return TextCodec(directory)


def test_a_template_that_raises_is_an_invalid_request(model_dir: Path, tmp_path: Path) -> None:
    codec = with_template(model_dir, tmp_path, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        codec.render([ChatMessage("user", "hi")])


def test_a_template_runs_in_a_sandbox(model_dir: Path, tmp_path: Path) -> None:
    codec = with_template(model_dir, tmp_path, "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(InvalidRequest):
        codec.render([ChatMessage("user", "hi")])


def test_template_helpers(model_dir: Path, tmp_path: Path) -> None:
    codec = with_template(model_dir, tmp_path, "{{ messages[0] | tojson }} {{ strftime_now('%%') }}{{ eos_token }}")
    assert codec.render([ChatMessage("user", "<é>")]) == '{"role": "user", "content": "<é>"} %<|end|>'


def test_tools_are_told_as_the_template_wants(model_dir: Path, tmp_path: Path) -> None:
    source = "{% for t in tools or [] %}[{{ t.function.name }} {{ t | tojson }}]{% else %}none{% endfor %}"
    codec = with_template(model_dir, tmp_path, source)
    tool = json.dumps({"type": "function", "function": {"name": "run_sql", "parameters": {}}})
    assert codec.render([ChatMessage("user", "hi")], [tool]) == f"[run_sql {tool}]"
    assert codec.render([ChatMessage("user", "hi")]) == "none"
    with pytest.raises(InvalidRequest, match=r"tools\[1\] is not JSON"):
        codec.render([ChatMessage("user", "hi")], [tool, "{"])
    with pytest.raises(InvalidRequest, match=r"tools\[0\] must be a JSON object"):
        codec.render([ChatMessage("user", "hi")], ["[]"])


def test_calls_and_results_are_told_as_the_template_wants(model_dir: Path, tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<{{ c.function.name }} {{ c.function.arguments.city }}>{% endfor %}"
        "{{ m.tool_call_id }};{% endfor %}"
    )
    codec = with_template(model_dir, tmp_path, source)
    call = json.dumps({"id": "c1", "type": "function", "function": {"name": "size", "arguments": {"city": "Rome"}}})
    messages = [ChatMessage("assistant", "", (call,)), ChatMessage("tool", "3", tool_call_id="c1")]
    assert codec.render(messages) == "assistant:<size Rome>;tool:3c1;"
    with pytest.raises(InvalidRequest, match="refuses the messages"):
        codec.render([ChatMessage("assistant", "", ("{",))])


def test_named_templates_and_none(model_dir: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(model_dir, tmp_path / "model"))
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert TextCodec(directory).render([ChatMessage("user", "hi")]) == "yes"
    (directory / "tokenizer_config.json").unlink()
    with pytest.raises(InvalidRequest, match="no chat template"):
        TextCodec(directory).render([ChatMessage("user", "hi")])
