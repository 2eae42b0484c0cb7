"""The training step against transformers + torch, on the same shapes, turn by turn in one run.

    python tests/benchmarks/train_step.py                       # CPU: 10 M parameters, 8 rows x 512, float32
    python tests/benchmarks/train_step.py --device gpu          # one GPU: configs/small_gpu.yaml's model, bfloat16
    python tests/benchmarks/train_step.py --rounds 20 --ours-only --trace /tmp/trace

Both sides take the same rows: several documents a row, kept apart by the mask, positions that start anew
with each, loss on the same tokens; forward, backward, clipping and AdamW. Theirs is
`LlamaForCausalLM` with SDPA (a boolean mask for the packed documents), on a GPU compiled by
`torch.compile` and under bfloat16 autocast; ours is the very step of train.py. Steps alternate, so a
busy machine slows both; what counts is the ratio. On a machine that others use, `taskset -c 0` keeps both to one
core and the processor time (user and system, all threads) is what to compare. The first rounds (compilation) are
left out.
"""

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TEMPORARILY_DISABLE_PROTOBUF_VERSION_CHECK", "true")

# The shape, the rows and the settings of each kind of run.
KINDS: dict[str, dict[str, Any]] = {
    "cpu": {
        "shape": {
            "vocab_size": 8192,
            "embed_dim": 256,
            "mlp_dim": 704,
            "num_layers": 8,
            "num_heads": 8,
            "num_kv_heads": 8,
            "head_dim": 32,
        },
        "rows": 8,
        "seq_len": 512,
        "compute_dtype": "float32",
        "remat": "none",
    },
    "gpu": {
        "shape": {
            "vocab_size": 32768,
            "embed_dim": 2048,
            "mlp_dim": 5632,
            "num_layers": 20,
            "num_heads": 16,
            "num_kv_heads": 8,
            "head_dim": 128,
        },
        "rows": 8,
        "seq_len": 2048,
        "compute_dtype": "bfloat16",
        "remat": "attention",
    },
}
DOCUMENTS = 4  # of unequal length in every row
LR, DECAY, CLIP = 1e-4, 0.1, 1.0


def main() -> None:
    """Runs both sides in turn and prints tokens/s and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=[*KINDS], default="cpu")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--attention", default="auto", help="ours: train.attention")
    parser.add_argument("--remat", help="ours: train.remat")
    parser.add_argument("--loss-chunk", type=int, default=1024, help="ours: train.loss_chunk")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--trace", help="folder for a jax.profiler trace of three of our steps")
    given = parser.parse_args()
    if given.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    kind = KINDS[given.device] | {"loss_chunk": given.loss_chunk, "attention": given.attention}
    if given.remat:
        kind["remat"] = given.remat
    batch = rows(kind)
    sides = {"ours": ours(kind, batch, given.trace)}
    if not given.ours_only:
        sides["theirs"] = theirs(kind, batch, given.device)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(given.rounds + 2):
        for name, step in sides.items():
            begin, used = time.perf_counter(), time.process_time()
            losses[name].append(step())
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - begin)
                processor[name].append(time.process_time() - used)
    tokens = kind["rows"] * kind["seq_len"]
    for name, spent in seconds.items():
        middle = statistics.median(spent)
        print(
            f"{name:<7}{tokens / middle:>12,.0f} tokens/s  {middle:.3f} s a step "
            f"(best {min(spent):.3f}); processor {statistics.median(processor[name]):.3f} s "
            f"(best {min(processor[name]):.3f}); loss {losses[name][0]:.4f} -> {losses[name][-1]:.4f}",
            flush=True,
        )
    if len(sides) == 2:
        for what, spent in (("wall", seconds), ("processor", processor)):
            ratios = [b / a for a, b in zip(spent["ours"], spent["theirs"], strict=True)]
            print(
                f"ours / theirs, tokens per second of {what} time: {statistics.median(ratios):.2f} (median of "
                f"{len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f}); "
                f"best against best {min(spent['theirs']) / min(spent['ours']):.2f}"
            )
        print(f"load {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} core(s)")


def rows(kind: dict[str, Any]) -> dict[str, Any]:
    """A packed batch: DOCUMENTS a row, some padding at the end of each, all but first tokens supervised."""
    import numpy as np

    rng = np.random.default_rng(0)
    B, T = kind["rows"], kind["seq_len"]
    tokens = rng.integers(3, kind["shape"]["vocab_size"], (B, T)).astype(np.int32)
    segment_ids = np.zeros((B, T), np.int32)
    for row in range(B):
        cuts = np.sort(rng.choice(np.arange(8, T - 8), DOCUMENTS, replace=False))
        for number, (start, stop) in enumerate(
            zip([0, *cuts[:-1]], [*cuts[:-1], T - 5], strict=True), 1
        ):
            segment_ids[row, start:stop] = number
    first = np.diff(segment_ids, axis=1, prepend=0) != 0
    return {
        "tokens": np.where(segment_ids > 0, tokens, 0).astype(np.int32),
        "segment_ids": segment_ids,
        "loss_mask": (segment_ids > 0) & ~first,
        "stream": np.zeros(B, np.int32),
    }


def ours(kind: dict[str, Any], batch: dict[str, Any], trace: str | None) -> Callable[[], float]:
    """The step of train.py on one device."""
    import jax
    import jax.numpy as jnp

    from model.attention import select
    from model.config import LlamaConfig
    from model.llama import init_params, num_params
    from tpu.config import MeshConfig
    from tpu.mesh import make_mesh
    from training.config import OptimizerConfig, TrainConfig
    from training.optimizer import make_optimizer
    from training.state import layout
    from training.step import State, jit_step, make_train_step

    config = LlamaConfig(**kind["shape"])
    run = TrainConfig(
        num_steps=1000,
        seq_len=kind["seq_len"],
        global_batch_rows=kind["rows"],
        compute_dtype=kind["compute_dtype"],
        remat=kind["remat"],
        loss_chunk=kind["loss_chunk"],
        attention=kind["attention"],
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    tx = make_optimizer(
        OptimizerConfig(peak_lr=LR, weight_decay=DECAY, clip_norm=CLIP, schedule="constant"), 1000
    )
    plan = layout(config, tx, mesh)
    params = jax.jit(lambda key: init_params(config, key), out_shardings=plan.shardings.params)(
        jax.random.key(0)
    )
    state = State(params, jax.jit(tx.init, out_shardings=plan.shardings.opt_state)(params))
    kernel, attend = select(
        run.attention, jax.devices()[0].platform, jnp.dtype(run.compute_dtype), mesh
    )
    step = jit_step(
        make_train_step(config, run, tx, mesh, plan.specs, attend, num_streams=1),
        plan.shardings,
        mesh,
    )
    print(f"ours: {num_params(config):,} parameters, attention {kernel}, remat {run.remat}")
    held = {"state": state, "steps": 0}

    def one() -> float:
        tracing = trace is not None and held["steps"] == 3
        with jax.profiler.trace(trace) if tracing else contextlib.nullcontext():  # pyright: ignore[reportArgumentType]
            for _ in range(3 if tracing else 1):
                held["state"], metrics = step(held["state"], batch)
                loss = float(metrics["loss"])
        held["steps"] += 1
        return loss

    return one


def theirs(kind: dict[str, Any], batch: dict[str, Any], device: str) -> Callable[[], float]:
    """LlamaForCausalLM with SDPA, fused AdamW, the same clipping."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = kind["shape"]
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape["vocab_size"],
            hidden_size=shape["embed_dim"],
            intermediate_size=shape["mlp_dim"],
            num_hidden_layers=shape["num_layers"],
            num_attention_heads=shape["num_heads"],
            num_key_value_heads=shape["num_kv_heads"],
            head_dim=shape["head_dim"],
            max_position_embeddings=kind["seq_len"],
            tie_word_embeddings=False,
            use_cache=False,
            attn_implementation="sdpa",
        )
    )
    place = "cuda" if device == "gpu" else "cpu"
    model = model.to(place).train()
    if device == "gpu":
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=DECAY, fused=True
    )
    segments = batch["segment_ids"]
    causal = np.tril(np.ones((segments.shape[1],) * 2, bool))
    seen = causal & (segments[:, :, None] == segments[:, None, :])
    new = np.diff(segments, axis=1, prepend=-1) != 0
    at = np.arange(segments.shape[1])
    positions = at - np.maximum.accumulate(np.where(new, at, 0), axis=1)
    inputs = {
        "input_ids": torch.tensor(batch["tokens"], dtype=torch.long, device=place),
        "attention_mask": torch.tensor(seen[:, None], device=place),
        "position_ids": torch.tensor(positions, dtype=torch.long, device=place),
        "labels": torch.tensor(
            np.where(batch["loss_mask"], batch["tokens"], -100), dtype=torch.long, device=place
        ),
    }
    print(
        f"theirs: {sum(p.numel() for p in model.parameters()):,} parameters, torch {torch.__version__}"
    )

    def one() -> float:
        optimizer.zero_grad(set_to_none=True)
        mixed = (
            torch.autocast("cuda", torch.bfloat16) if device == "gpu" else contextlib.nullcontext()
        )
        with mixed:
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return float(loss.detach())

    return one


if __name__ == "__main__":
    main()
