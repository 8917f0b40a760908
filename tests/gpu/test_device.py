"""What only a GPU can show: bf16, captured graphs, run-ahead, copies on streams of their own. Skipped without CUDA."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    pytest.skip("needs CUDA", allow_module_level=True)

from engine.clock import ManualClock
from engine.config import EngineConfig, ModelSpec, RopeSpec
from engine.copies import BlockCopies
from engine.device_batch import BlockTables, DecodeLayout, Group, Shape, Uploads, extend_layout
from engine.device_runner import DeviceRunner
from engine.loading import load_engine
from engine.ops import fused, paged_attention, rope_store
from engine.ops.triton_ops import Part
from tests.engine.models import make_model
from tests.engine.serve import request, serve

GPU = torch.device("cuda")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def spec_of(kv_heads: int, group: int, dim: int) -> ModelSpec:
    return ModelSpec(
        "llama", 32, 16, 16, 1, kv_heads * group, kv_heads, dim, 4096, 1e-6, RopeSpec(), False, False, False, False,
        False, "bfloat16", (),
    )  # fmt: skip


def paged(lengths: list[int], kv_heads: int, dim: int, dtype: torch.dtype, shared: int) -> tuple[Tensor, BlockTables]:
    """Keys and values in scattered blocks; the first `shared` blocks are the first row's in all rows."""
    torch.manual_seed(0)
    sizes = [-(-length // 16) for length in lengths]
    free = torch.randperm(sum(sizes)).tolist()
    kv = torch.randn(2, kv_heads, (sum(sizes) + 1) * 16, dim, device=GPU).to(dtype)
    kv[:, :, -16:] = float("nan")
    tables = BlockTables(len(lengths), max(sizes), sum(sizes), GPU)
    first: list[int] = []
    for row, size in enumerate(sizes):
        blocks = [free.pop() for _ in range(size)]
        blocks[:shared] = first[:shared] or blocks[:shared]
        first = first or blocks
        tables.write(row, 0, blocks)
    tables.flush(Uploads(GPU))
    return kv, tables


def attend(part: Part, shared: Part | None, q: Tensor, kv: Tensor, tables: BlockTables, causal: bool) -> Tensor:
    out = torch.full_like(q, float("nan"))
    part.work.plan()
    paged_attention.attend(q, kv, tables.device, part.work, part.members, out, causal=causal, direct=True)
    both = None
    if shared is not None:
        shared.work.plan()
        paged_attention.attend(q, kv, tables.device, shared.work, shared.members, out, causal=False, direct=False)
        both = (shared.work, shared.places)
    if part.split or both is not None:
        paged_attention.merge(out, part.work, part.places, kv.shape[1], direct=True, shared=both)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kv_heads", "group", "dim"), [(8, 4, 128), (3, 3, 64), (2, 1, 80), (1, 16, 128)])
@pytest.mark.parametrize("together", [False, True])
def test_decode(kv_heads: int, group: int, dim: int, dtype: torch.dtype, together: bool) -> None:
    lengths = [1030, 1025, 2000, 1024, 1500, 3111]
    kv, tables = paged(lengths, kv_heads, dim, dtype, shared=64 if together else 0)
    shape = Shape(spec_of(kv_heads, group, dim), GPU, 8, dtype)
    layout = DecodeLayout(shape, 8, 6, grouped=together)
    positions = [length - 1 for length in lengths]
    layout.fill([0] * 6, positions, list(range(6)))
    if together:
        layout.group([Group((0, 1, 2, 3, 4, 5), 64)])
    layout.send(Uploads(GPU))
    q = torch.randn(8, kv_heads * group, dim, device=GPU).to(dtype)
    out = attend(layout.part, layout.shared_part, q, kv, tables, causal=False)
    expected = paged_attention.reference(q[:6], kv, tables.device, torch.arange(6), torch.tensor(positions))
    torch.testing.assert_close(out[:6].float(), expected, rtol=0, atol=TOLERANCE[dtype])
    assert (out[6:] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spans", [[(0, 33), (1000, 40), (17, 1)], [(0, 1100), (500, 600)]], ids=["few", "many"])
def test_extend(dtype: torch.dtype, spans: list[tuple[int, int]]) -> None:
    kv, tables = paged([start + count for start, count in spans], 4, 128, dtype, shared=0)
    shape = Shape(spec_of(4, 4, 128), GPU, 4, dtype)
    pieces = [([0] * count, start, row) for row, (start, count) in enumerate(spans)]
    layout = extend_layout(shape, pieces, [0], Uploads(GPU))
    q = torch.randn(layout.ids.shape[0], 16, 128, device=GPU).to(dtype)
    out = attend(layout.part, None, q, kv, tables, causal=True)
    sample = torch.arange(0, len(q), max(len(q) // 50, 1), device=GPU)
    rows, positions = layout.rows[sample], layout.positions[sample]
    expected = paged_attention.reference(q[sample], kv, tables.device, rows, positions)
    torch.testing.assert_close(out[sample].float(), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows(dtype: torch.dtype) -> None:
    limit = 2 * TOLERANCE[dtype]
    hidden, delta = torch.randn(2, 5, 4096, device=GPU).to(dtype)
    weight = torch.randn(4096, device=GPU).to(dtype)
    mine, theirs = hidden.clone(), hidden.clone()
    out = fused.add_norm(delta, mine, weight, 1e-5)
    torch.testing.assert_close(out, fused.add_norm_reference(delta, theirs, weight, 1e-5), rtol=limit, atol=limit)
    torch.testing.assert_close(mine, theirs, rtol=limit, atol=limit)
    gate_up = torch.randn(5, 6000, device=GPU).to(dtype)
    torch.testing.assert_close(fused.silu_mul(gate_up), fused.silu_mul_reference(gate_up), rtol=limit, atol=limit)
    positions = torch.tensor([0, 17, -1, 31], dtype=torch.int32, device=GPU)
    rows = torch.tensor([0, 1, 2, 1], dtype=torch.int32, device=GPU)
    tables = torch.tensor([[3, 0], [1, 4], [5, 5]], dtype=torch.int32, device=GPU)
    qkv = torch.randn(4, 9 + 2 * 3, 64, device=GPU).to(dtype)
    angle = torch.rand(40, 32, device=GPU)
    turns = torch.stack((angle.cos(), angle.sin()), 1)
    norms = (weight[:64], weight[64:128])
    kv = torch.zeros(2, 3, 96, 64, dtype=dtype, device=GPU)
    other = kv.clone()
    q = rope_store.rope_store(qkv, kv, tables, rows, positions, turns, norms, 1e-5)
    expected = rope_store.reference(qkv, other, tables, rows, positions, turns, norms, 1e-5)
    there = positions >= 0
    torch.testing.assert_close(q[there], expected[there], rtol=limit, atol=limit)
    torch.testing.assert_close(kv, other, rtol=limit, atol=limit)


def test_blocks_go_to_the_host_and_back() -> None:
    """In order with what the device does: overwriting a block waits for its copy, and so does reading a fetched one."""
    kv = torch.randn(4, 2, 8, 65 * 16, 128, device=GPU).to(torch.bfloat16)
    before = kv.clone()
    copies = BlockCopies(kv, 64, Uploads(GPU))
    order = list(range(64))
    random.Random(0).shuffle(order)
    copies.to_host([(block, order[block]) for block in range(64)])
    copies.wait_for(range(64))
    kv.zero_()
    copies.to_device([(order[block], block) for block in range(64)])
    copies.wait_for(range(64))
    again = kv.clone()
    copies.within([(0, 64)])
    torch.cuda.synchronize()
    assert torch.equal(again[..., : 64 * 16, :], before[..., : 64 * 16, :])
    assert torch.equal(kv[..., 64 * 16 :, :], before[..., :16, :])
    assert copies.measure() > 0


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("qwen3"), "qwen3", max_position_embeddings=1024)


def test_engine_serves_what_the_cpu_serves(model_dir: Path) -> None:
    """fp32, greedy: graphs and run-ahead, siblings over a long prefix, chunks, preemption by a small pool."""
    rng = random.Random(0)
    shared = [rng.randrange(4, 380) for _ in range(600)]
    prompts = [[*shared, index + 4] for index in range(6)] + [
        [rng.randrange(4, 380) for _ in range(n)] for n in (1, 90)
    ]
    requests = [request(str(index), prompt, 40) for index, prompt in enumerate(prompts)]
    config = {"dtype": "float32", "token_budget": 256, "max_running": 8, "kv_blocks": 75, "threads": 1}
    expected = serve(load_engine(EngineConfig(str(model_dir), **config), ManualClock()), *requests)  # type: ignore[arg-type]
    engine = load_engine(EngineConfig(str(model_dir), device="cuda", **config), ManualClock())  # type: ignore[arg-type]
    assert isinstance(engine._runner, DeviceRunner)
    for _ in range(2):
        results = serve(engine, *requests)
        assert {name: one.ids for name, one in results.items()} == {name: one.ids for name, one in expected.items()}


def test_sampled_and_greedy_in_one_batch(model_dir: Path) -> None:
    requests = [request(str(index), [5 + index, 9], 20, temperature=float(index % 2), seed=index) for index in range(4)]
    config = {"dtype": "float32", "kv_blocks": 40, "max_running": 8, "threads": 1}
    expected = serve(load_engine(EngineConfig(str(model_dir), **config), ManualClock()), *requests)  # type: ignore[arg-type]
    engine = load_engine(EngineConfig(str(model_dir), device="cuda", **config), ManualClock())  # type: ignore[arg-type]
    results = serve(engine, *requests)
    for name in ("0", "2"):
        assert results[name].ids == expected[name].ids
    assert all(len(result.ids) == 20 for result in results.values())
