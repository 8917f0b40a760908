"""Every kernel against its reference in Triton's interpreter. Run by test_kernels.py in a process of its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import device_batch
from engine.clock import ManualClock
from engine.config import EngineConfig, ModelSpec, RopeSpec, read_spec
from engine.copies import BlockCopies
from engine.device_batch import BlockTables, DecodeLayout, Group, Shape, Uploads, extend_layout
from engine.device_runner import DeviceRunner
from engine.loading import load_engine
from engine.models.decoder import Decoder
from engine.ops import blocks, fused, paged_attention, rope_store
from engine.ops.launch import UnsupportedType, interpreting
from engine.ops.paged_attention import Tiling, attend, merge
from engine.ops.triton_ops import Part, TritonOps
from engine.weights import load_weights
from tests.engine.models import make_model
from tests.engine.serve import request, serve

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3}
GEOMETRIES = [
    # kv heads, group, head dim, type: query heads alone, packed to 16 rows, and head dims that are no power of 2
    (1, 1, 64, torch.float32),
    (2, 4, 64, torch.float16),
    (1, 8, 128, torch.float32),
    (1, 4, 128, torch.float16),
    (2, 3, 20, torch.float32),
]


def spec_of(kv_heads: int, group: int, dim: int) -> ModelSpec:
    return ModelSpec(
        "llama", 32, 16, 16, 1, kv_heads * group, kv_heads, dim, 256, 1e-6, RopeSpec(), False, False, False, False,
        False, "float32", (),
    )  # fmt: skip


class Paged:
    """Random keys and values of sequences of these lengths, in blocks spread over the cache."""

    def __init__(self, lengths: list[int], kv_heads: int, dim: int, dtype: torch.dtype, shared: int = 0) -> None:
        torch.manual_seed(len(lengths) + dim)
        width = max(lengths) // 16 + 2
        count = sum(length // 16 + 1 for length in lengths) + 1
        self.kv = torch.randn(2, kv_heads, count * 16, dim).to(dtype)
        # What no sequence may see is NaN: the last block, which pads tables, and slots behind the ends.
        self.kv[:, :, -16:] = float("nan")
        self.tables = BlockTables(len(lengths), width, count - 1, CPU)
        free = torch.randperm(count - 1).tolist()
        first: list[int] = []
        for row, length in enumerate(lengths):
            own = [free.pop() for _ in range(-(-length // 16))]
            if row and len(own) >= shared:
                own[:shared] = first[:shared]
            first = first or own
            self.tables.write(row, 0, own)
            if length % 16:
                end = own[-1] * 16 + length % 16
                self.kv[:, :, end : own[-1] * 16 + 16] = float("nan")
        self.tables.flush(Uploads(CPU))


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 tokens, so that short sequences cross every boundary."""
    monkeypatch.setattr(device_batch, "DECODE", Tiling(16, 16, 4, 2))
    monkeypatch.setattr(device_batch, "SHARED", Tiling(16, 32, 4, 2))
    monkeypatch.setattr(device_batch, "EXTEND_SMALL", Tiling(16, 16, 4, 2))
    monkeypatch.setattr(device_batch, "_LEAST_SHARED_BLOCKS", 1)
    monkeypatch.setattr(device_batch, "UNITS_PER_SM", 8)


def check(out: Tensor, expected: Tensor) -> None:
    assert out.isfinite().all()
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=TOLERANCE[out.dtype])


def expected_of(q: Tensor, paged: Paged, rows: list[int], positions: list[int]) -> Tensor:
    return paged_attention.reference(q, paged.kv, paged.tables.device, torch.tensor(rows), torch.tensor(positions))


def decode(paged: Paged, q: Tensor, positions: list[int], shape: Shape, size: int, groups: list[Group]) -> Tensor:
    layout = DecodeLayout(shape, size, len(positions), grouped=bool(groups))
    layout.part.work.least = 32
    layout.fill([0] * len(positions), positions, list(range(len(positions))))
    if groups:
        layout.group(groups)
    layout.send(Uploads(CPU))
    padded = torch.full((size, *q.shape[1:]), float("nan"), dtype=q.dtype)
    padded[: len(q)] = q
    out = torch.full_like(padded, float("nan"))
    run(layout.part, padded, paged, out, layout.shared_part)
    assert (out[len(q) :] == 0).all(), "padding must come out as zeros"
    return out[: len(q)]


def run(part: Part, q: Tensor, paged: Paged, out: Tensor, shared: Part | None = None, causal: bool = False) -> None:
    kv_heads = paged.kv.shape[1]
    part.work.plan()
    attend(q, paged.kv, paged.tables.device, part.work, part.members, out, causal=causal, direct=True)
    both = None
    if shared is not None:
        shared.work.least = 32
        shared.work.plan()
        attend(q, paged.kv, paged.tables.device, shared.work, shared.members, out, causal=False, direct=False)
        both = (shared.work, shared.places)
    if part.split or shared is not None:
        merge(out, part.work, part.places, kv_heads, direct=True, shared=both)


@pytest.mark.parametrize(("kv_heads", "group", "dim", "dtype"), GEOMETRIES)
def test_decode(kv_heads: int, group: int, dim: int, dtype: torch.dtype) -> None:
    lengths = [1, 16, 0, 50, 17, 161]
    paged = Paged(lengths, kv_heads, dim, dtype)
    q = torch.randn(len(lengths), kv_heads * group, dim).to(dtype)
    positions = [length - 1 for length in lengths]
    shape = Shape(spec_of(kv_heads, group, dim), CPU, 8)
    out = decode(paged, q, positions, shape, 8, [])
    check(out, expected_of(q, paged, list(range(len(lengths))), positions))


@pytest.mark.parametrize(("kv_heads", "group", "dim", "dtype"), GEOMETRIES[2:])
def test_decode_of_siblings(kv_heads: int, group: int, dim: int, dtype: torch.dtype) -> None:
    """Six siblings in chunks of as many as fit a tile, one of them with nothing of its own, and a stranger."""
    lengths = [97, 100, 64, 113, 70, 65]
    paged = Paged([*lengths, 40], kv_heads, dim, dtype, shared=4)
    paged.tables.write(6, 0, paged.tables.host[0, 4:6])
    q = torch.randn(7, kv_heads * group, dim).to(dtype)
    positions = [length - 1 for length in [*lengths, 32]]
    paged.tables.flush(Uploads(CPU))
    shape = Shape(spec_of(kv_heads, group, dim), CPU, 8)
    out = decode(paged, q, positions, shape, 8, [Group((0, 1, 2, 3, 4, 5), 4)])
    check(out, expected_of(q, paged, list(range(7)), positions))


@pytest.mark.parametrize(
    ("kv_heads", "group", "dim", "dtype", "full_grid"),
    [(*GEOMETRIES[1], 0), (*GEOMETRIES[2], 1000), (*GEOMETRIES[4], 1000)],
)
def test_extend(
    kv_heads: int, group: int, dim: int, dtype: torch.dtype, full_grid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole prompts, pieces behind long and crooked prefixes, and single tokens."""
    spans = [(0, 18), (100, 7), (15, 2), (63, 1)]
    paged = Paged([start + count for start, count in spans], kv_heads, dim, dtype)
    shape = Shape(spec_of(kv_heads, group, dim), CPU, 4)
    shape.full_grid = full_grid
    pieces = [([0] * count, start, row) for row, (start, count) in enumerate(spans)]
    layout = extend_layout(shape, pieces, [17, 27], Uploads(CPU))
    assert layout.wanted.tolist() == [17, 27] and layout.part.split == bool(full_grid)
    layout.part.work.least = min(layout.part.work.least, 32) if full_grid else layout.part.work.least
    rows = [row for row, (_, count) in enumerate(spans) for _ in range(count)]
    positions = [start + index for start, count in spans for index in range(count)]
    assert layout.rows.tolist() == rows and layout.positions.tolist() == positions
    q = torch.randn(len(rows), kv_heads * group, dim).to(dtype)
    out = torch.full_like(q, float("nan"))
    run(layout.part, q, paged, out, causal=True)
    check(out, expected_of(q, paged, rows, positions))


def test_units_cover_each_token_once() -> None:
    """Whatever the lengths: units of an item are disjoint and whole, and there are no more of them than promised."""
    rng = random.Random(0)
    for count, target in ((1, 1), (5, 3), (24, 40), (70, 7)):
        lengths = [rng.choice((0, 1, 63, 64, 65, 300, 5000, 40000)) for _ in range(count)]
        items = torch.zeros(6, count, dtype=torch.int32)
        items[1] = torch.tensor([int(length > 0) for length in lengths])
        items[2], items[4] = torch.arange(count), torch.tensor(lengths)
        work = paged_attention.Work(
            items, torch.empty(0, 1, 16), Tiling(16, 64, 4, 2), kv_heads=1, units_per_head=target
        )
        work.plan()
        covered: dict[int, int] = {}
        for _, members, row, begin, end, _, alone, _ in work.units.tolist():
            if members:
                assert covered.get(row, 0) == begin < end
                assert alone == (begin == 0 and end == lengths[row])
                covered[row] = end
        assert [covered.get(row, 0) for row in range(count)] == lengths
        assert work.bounds[1, -1] <= work.capacity


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim", "norm"), [(4, 2, 64, True), (3, 1, 20, True), (9, 3, 16, False)])
def test_rope_store(heads: int, kv_heads: int, dim: int, norm: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(dim)
    positions = torch.tensor([0, 17, -1, 31, 5], dtype=torch.int32)
    rows = torch.tensor([0, 1, 2, 1, 0], dtype=torch.int32)
    tables = torch.tensor([[3, 0, 0], [1, 4, 0], [5, 5, 5]], dtype=torch.int32)
    qkv = torch.randn(5, heads + 2 * kv_heads, dim).to(dtype)
    angle = torch.rand(40, dim // 2) * 6
    turns = torch.stack((angle.cos(), angle.sin()), 1)
    norms = (torch.randn(dim).to(dtype), torch.randn(dim).to(dtype)) if norm else None
    kv = torch.zeros(2, kv_heads, 6 * 16, dim, dtype=dtype)
    expected_kv = kv.clone()
    q = rope_store.rope_store(qkv, kv, tables, rows, positions, turns, norms, 1e-5)
    expected = rope_store.reference(qkv, expected_kv, tables, rows, positions, turns, norms, 1e-5)
    there = positions >= 0
    limit = 4 * TOLERANCE[dtype]
    torch.testing.assert_close(q[there], expected[there], rtol=limit, atol=limit)
    torch.testing.assert_close(kv, expected_kv, rtol=limit, atol=limit)
    assert (kv[:, :, 5 * 16 :] == 0).all(), "a token without a position was stored"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [48, 600])
def test_rows(size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(size)
    limit = 4 * TOLERANCE[dtype]
    hidden, delta = torch.randn(3, size).to(dtype), torch.randn(3, size).to(dtype)
    weight = torch.randn(size).to(dtype)
    for more in (None, delta):
        mine, theirs = hidden.clone(), hidden.clone()
        out = fused.add_norm(more, mine, weight, 1e-5)
        torch.testing.assert_close(out, fused.add_norm_reference(more, theirs, weight, 1e-5), rtol=limit, atol=limit)
        assert torch.equal(mine, theirs)
    gate_up = torch.randn(3, 2 * size).to(dtype) * 4
    torch.testing.assert_close(fused.silu_mul(gate_up), fused.silu_mul_reference(gate_up), rtol=limit, atol=limit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_block_copies(dtype: torch.dtype) -> None:
    kv = torch.randn(2, 2, 2, 7 * 16, 20).to(dtype)
    planes, size = blocks.planes_of(kv)
    ids = torch.tensor([5, 0, 3], dtype=torch.int32)
    packed = torch.zeros(3, planes * size, dtype=dtype)
    expected = torch.zeros_like(packed)
    blocks.gather_blocks(kv, ids, packed)
    blocks.gather_reference(kv, ids, expected)
    assert torch.equal(packed, expected)
    other, theirs = torch.zeros_like(kv), torch.zeros_like(kv)
    blocks.scatter_blocks(other, ids, packed)
    blocks.scatter_reference(theirs, ids, packed)
    assert torch.equal(other, theirs) and torch.equal(other[:, :, :, 80:96], kv[:, :, :, 80:96])
    pairs = torch.tensor([[0, 5], [1, 2]], dtype=torch.int32)
    blocks.copy_blocks(other, pairs)
    blocks.copy_reference(theirs, pairs)
    assert torch.equal(other, theirs) and torch.equal(other[:, :, :, 32:48], kv[:, :, :, 80:96])


def test_blocks_come_back_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.copies.STAGED_BYTES", 4 * 16 * 8 * 4 * 2)  # two blocks at a time
    kv = torch.randn(1, 2, 2, 8 * 16, 8)
    before = kv.clone()
    copies = BlockCopies(kv, 6, Uploads(CPU))
    copies.to_host([(1, 4), (2, 5), (7, 0), (3, 2)])
    kv.zero_()
    copies.to_device([(0, 0), (4, 1), (5, 6), (2, 3)])
    for block, source in ((0, 7), (1, 1), (6, 2), (3, 3)):
        assert torch.equal(kv[..., block * 16 : block * 16 + 16, :], before[..., source * 16 : source * 16 + 16, :])
    copies.within([(0, 5)])
    assert torch.equal(kv[..., 80:96, :], before[..., 112:128, :])


def test_bf16_is_refused_here() -> None:
    """The interpreter computes with the bits of bf16, without an error: it must not be asked to."""
    assert interpreting()
    hidden = torch.zeros(1, 16, dtype=torch.bfloat16)
    with pytest.raises(UnsupportedType, match="bfloat16 arithmetic is wrong"):
        fused.add_norm(None, hidden, hidden[0], 1e-6)
    with pytest.raises(UnsupportedType, match="take float32, float16 and bfloat16"):
        fused.silu_mul(torch.zeros(1, 32, dtype=torch.float64))


Prompts = list[tuple[str, list[int], int]]


def served(engine: Any, prompts: Prompts) -> dict[str, list[int]]:
    return {name: result.ids for name, result in serve(engine, *[request(*one) for one in prompts]).items()}


def test_engine_on_kernels(tmp_path: Path) -> None:
    """The device's runner serves what the CPU's does: chunked, cached, siblings, run ahead over the ends of blocks."""
    directory = make_model(tmp_path, "qwen3")
    config = EngineConfig(str(directory), threads=1, token_budget=36, max_running=5, kv_blocks=14)
    rng = random.Random(1)
    shared = [rng.randrange(4, 380) for _ in range(16)]
    prompts: Prompts = [(f"s{index}", [*shared, index + 5], 4) for index in range(4)]
    prompts.append(("long", [rng.randrange(4, 380) for _ in range(29)], 6))
    expected = served(load_engine(config, ManualClock()), prompts)
    engine = load_engine(config, ManualClock())
    spec = read_spec(directory)
    weights = load_weights(directory, spec, torch.float32, CPU)
    decoder = Decoder(spec, weights, TritonOps(spec, weights.embedding, 256))
    runner = DeviceRunner(decoder, blocks=14, max_running=5, context_tokens=256)
    grouped: list[int] = []
    group: Callable[..., None] = DecodeLayout.group

    def counted(layout: DecodeLayout, groups: Any) -> None:
        grouped.append(len(groups))
        group(layout, groups)

    engine._runner = runner
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecodeLayout, "group", counted)
        assert served(engine, prompts) == expected
    assert grouped, "siblings were not found"


def test_drafts_and_draws_on_kernels(tmp_path: Path) -> None:
    """Pieces that verify a draft, beside decodes under way, and sampled decodes, which do not run ahead."""
    directory = make_model(tmp_path)
    config = EngineConfig(str(directory), threads=1, max_running=2, kv_blocks=8, draft_tokens=3)
    asked = [request("again", [7, 8, 9, 7, 8, 9, 7, 8], 5), request("drawn", [5], 3, temperature=0.8, seed=3)]
    expected = {name: one.ids for name, one in serve(load_engine(config, ManualClock()), *asked).items()}
    engine = load_engine(config, ManualClock())
    spec = read_spec(directory)
    weights = load_weights(directory, spec, torch.float32, CPU)
    decoder = Decoder(spec, weights, TritonOps(spec, weights.embedding, 128))
    runner = DeviceRunner(decoder, blocks=8, max_running=2, context_tokens=128)
    seen: list[int] = []

    class Guesses:
        """One right token, then a wrong one, for one of the two."""

        def drafts(self, running: Any) -> Any:
            for sequence in running:
                if sequence.id == "again":
                    right = expected["again"][sequence.generated : sequence.generated + 1]
                    yield sequence, (*right, 379)

        def learn(self, step: Any, results: Any, seconds: float) -> None:
            seen.extend(len(result) for result in results if isinstance(result, tuple))

        def forget(self, sequence: str) -> None:
            """Nothing was learnt."""

    engine._runner, engine._speculator = runner, Guesses()
    assert {name: one.ids for name, one in serve(engine, *asked).items()} == expected
    assert 2 in seen, "no guess was taken"


def test_nan_logits_are_an_error_of_their_request(tmp_path: Path) -> None:
    directory = make_model(tmp_path)
    spec = read_spec(directory)
    weights = load_weights(directory, spec, torch.float32, CPU)
    weights.embedding[9] = float("nan")
    decoder = Decoder(spec, weights, TritonOps(spec, weights.embedding, 256))
    engine = load_engine(EngineConfig(str(directory), threads=1, kv_blocks=8, max_running=2), ManualClock())
    expected = served(engine, [("good", [5, 6], 3)])
    engine._runner = DeviceRunner(decoder, blocks=8, max_running=2, context_tokens=128)
    results = serve(engine, request("bad", [9, 4], 3), request("good", [5, 6], 3))
    assert "NaN" in str(results["bad"].error) and results["good"].ids == expected["good"]


def test_uploads_do_not_alias() -> None:
    values = np.arange(4, dtype=np.int32)
    sent = Uploads(CPU).send(values)
    values[:] = 0
    assert sent.tolist() == [0, 1, 2, 3]
