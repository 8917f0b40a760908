from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from semantic_cache import EmbedderError, ModelFilesError
from semantic_cache.embedders import EndpointEmbedder, OnnxEmbedder
from semantic_cache.embedders.export import export, file_sha256, find_source, read_card

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "how", "many", "cities", "are", "there", "in", "paris", "rome", "?"]
HIDDEN = 48


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights, as its directory would come from anywhere."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("weights")
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=32, hidden_act="gelu",
    )  # fmt: skip
    BertModel(config).save_pretrained(directory)
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("models") / "tiny"
    export(target, str(weights))
    return target


def reference(weights: Path, text: str) -> np.ndarray:
    """The same model in full precision: mean over tokens, unit length."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    tokenizer = Tokenizer.from_file(str(weights / "tokenizer.json"))
    tokenizer.no_padding()
    with torch.no_grad():
        states = BertModel.from_pretrained(weights).eval()(torch.tensor([tokenizer.encode(text).ids]))
    mean = states.last_hidden_state[0].mean(0).numpy()
    vector: np.ndarray = mean / np.linalg.norm(mean)
    return vector


async def test_the_exported_model_is_the_model_but_for_quantisation(weights: Path, exported: Path) -> None:
    embedder = OnnxEmbedder(exported)
    for text in ("how many cities are there in paris?", "paris", "rome rome rome"):
        vector = await embedder.embed(text)
        assert vector is not None
        assert vector.shape == (HIDDEN,)
        assert float(np.linalg.norm(vector)) == pytest.approx(1.0, abs=1e-5)
        assert float(vector @ reference(weights, text)) > 0.99
    await embedder.close()


async def test_a_vector_does_not_depend_on_what_is_embedded_beside_it(exported: Path) -> None:
    import asyncio

    one, other = OnnxEmbedder(exported), OnnxEmbedder(exported)
    alone = one.embed_now("how many cities")
    assert alone is not None
    together = await asyncio.gather(*(other.embed(t) for t in ("paris", "how many cities", "rome ? " * 5)))
    assert together[1] is not None
    assert (together[1] == alone).all()
    await one.close()
    await other.close()


async def test_a_text_that_does_not_fit_is_not_cut(exported: Path) -> None:
    embedder = OnnxEmbedder(exported)
    assert await embedder.embed("paris " * 30) is not None
    assert await embedder.embed("paris " * 31) is None
    await embedder.close()
    with pytest.raises(EmbedderError, match="closed"):
        await embedder.embed("paris")


def test_exporting_twice_gives_the_same_file_and_keeps_it(weights: Path, exported: Path, tmp_path: Path) -> None:
    card = export(tmp_path / "again", str(weights))
    assert card.digest == read_card(exported).digest
    before = (tmp_path / "again" / "model.onnx").stat().st_mtime_ns
    assert export(tmp_path / "again", "/nowhere") == card
    assert (tmp_path / "again" / "model.onnx").stat().st_mtime_ns == before


def test_other_weights_than_expected_are_refused(weights: Path, tmp_path: Path) -> None:
    right = file_sha256(weights / "model.safetensors")
    with pytest.raises(ModelFilesError, match=right):
        export(tmp_path / "m", str(weights), expected_sha256="0" * 64)
    assert not (tmp_path / "m").exists()
    assert export(tmp_path / "m", str(weights), expected_sha256=right).weights_sha256 == right


def test_damaged_and_foreign_directories_are_refused(exported: Path, weights: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in exported.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    with (damaged / "model.onnx").open("ab") as model:
        model.write(b"x")
    with pytest.raises(ModelFilesError, match="not the ones"):
        OnnxEmbedder(damaged)
    with pytest.raises(ModelFilesError, match="no exported model"):
        OnnxEmbedder(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    with pytest.raises(ModelFilesError, match="nothing was changed"):
        export(tmp_path / "mine", str(weights))
    assert (tmp_path / "mine" / "diary.txt").exists()


def test_what_is_no_model_is_refused_and_leaves_nothing(weights: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(ModelFilesError, match=r"config\.json"):
        export(tmp_path / "m", str(source))
    for name in ("tokenizer.json", "model.safetensors"):
        (source / name).write_bytes((weights / name).read_bytes())
    config = json.loads((weights / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(ModelFilesError, match="not a BERT"):
        export(tmp_path / "m", str(source))
    (source / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelFilesError, match=r"layer\.2"):
        export(tmp_path / "m", str(source))
    assert {p.name for p in tmp_path.iterdir()} == {"source"}


def test_a_source_that_is_nothing_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelFilesError, match="neither a directory nor a hub id"):
        find_source("/no/such/place")
    monkeypatch.setattr("semantic_cache.embedders.export.PACKAGE", "no_such_package")
    with pytest.raises(ModelFilesError, match="exact tier alone"):
        find_source(None)


def test_a_hub_id_is_fetched_and_its_weights_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked: list[object] = []

    def download(hub_id: str, allow_patterns: list[str]) -> str:
        asked.append((hub_id, tuple(allow_patterns)))
        if hub_id == "a/broken":
            raise OSError("no network")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    directory, sha256 = find_source("sentence-transformers/all-MiniLM-L6-v2")
    assert directory == tmp_path
    assert sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert find_source("someone/else") == (tmp_path, None)
    with pytest.raises(ModelFilesError, match="no network"):
        find_source("a/broken")
    assert asked[0] == (
        "sentence-transformers/all-MiniLM-L6-v2",
        ("config.json", "tokenizer.json", "model.safetensors"),
    )


class TestEndpoint:
    def embedder(self, handler: object, **more: object) -> EndpointEmbedder:
        transport = httpx.MockTransport(handler)  # type: ignore[arg-type]
        return EndpointEmbedder("http://e/v1", "m", 3, transport=transport, **more)  # type: ignore[arg-type]

    async def test_one_text_goes_out_and_a_unit_vector_comes_back(self) -> None:
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200, json={"data": [{"embedding": [3.0, 0.0, 4.0]}], "model": "m"})

        embedder = self.embedder(answer, api_key="k", max_chars=5)
        vector = await embedder.embed("hello")
        assert vector is not None
        assert vector.tolist() == pytest.approx([0.6, 0.0, 0.8])
        assert (str(seen[0].url), seen[0].headers["authorization"]) == ("http://e/v1/embeddings", "Bearer k")
        assert json.loads(seen[0].content) == {"model": "m", "input": "hello"}
        assert await embedder.embed("hello!") is None
        await embedder.close()

    @pytest.mark.parametrize(
        "response",
        [
            httpx.Response(500),
            httpx.Response(200, text="<html>"),
            httpx.Response(200, json={"data": []}),
            httpx.Response(200, json={"data": [{"embedding": [1.0, 2.0]}]}),
            httpx.Response(200, json={"data": [{"embedding": [0.0, 0.0, 0.0]}]}),
            httpx.Response(200, content=b'{"data": [{"embedding": [NaN, 0, 1]}]}'),
        ],
    )
    async def test_anything_else_is_an_embedder_error(self, response: httpx.Response) -> None:
        embedder = self.embedder(lambda request: response)
        with pytest.raises(EmbedderError):
            await embedder.embed("x")
        await embedder.close()

    async def test_no_answer_is_an_embedder_error(self) -> None:
        def fail(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused", request=request)

        embedder = self.embedder(fail)
        with pytest.raises(EmbedderError, match="refused"):
            await embedder.embed("x")
        await embedder.close()

    def test_the_digest_names_address_model_and_revision(self) -> None:
        digests = {
            EndpointEmbedder(url, model, 3, revision=revision).digest
            for url in ("http://a/v1", "http://b/v1")
            for model in ("m", "n")
            for revision in ("", "2")
        }
        assert len(digests) == 8


@pytest.mark.parametrize("order", ["faiss, onnxruntime", "onnxruntime, faiss"])
def test_the_native_libraries_live_together_in_any_order(order: str) -> None:
    """Wheels bring their own runtimes; two that clash crash the process, and only in one order."""
    done = subprocess.run([sys.executable, "-c", f"import {order}"], capture_output=True, check=False)
    assert done.returncode == 0
