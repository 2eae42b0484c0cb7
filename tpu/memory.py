"""What a training step holds on a device, before it is compiled: a rough sum, for leaving out what cannot fit.

The compiler has the last word. The sum was fitted to its figures (docs/plan.md).
"""

from collections.abc import Mapping
from typing import Any


def need(model: Any, train: Any, sizes: Mapping[str, int]) -> float:
    """Bytes on a device at the step's peak.

    Args:
        model: `model.config.LlamaConfig`.
        train: `training.config.TrainConfig`, settled.
        sizes: ways of slices, data, fsdp, tensor, sequence (`tpu.mesh.axis_sizes`).
    """
    from model.config import REMAT_SETS
    from model.lora import num_trained
    from tpu.mesh import splits_rank

    D, F, L, V = model.embed_dim, model.mlp_dim, model.num_layers, model.padded_vocab_size
    N, K, H = model.num_heads, model.num_kv_heads, model.head_dim
    ways, tensor = sizes["fsdp"] * sizes["tensor"], sizes["tensor"]
    layer = D * (2 * N + 2 * K) * H + 3 * D * F
    params = L * layer + V * D * (1 if model.tied_head else 2)
    # Float32 weights and two moments; gradients beside them while they are summed.
    wide = 2 if train.compute_dtype == "bfloat16" else 4
    summed = 2 if train.compute_dtype == train.grad_reduce_dtype == "bfloat16" else 4
    if model.lora is None:
        state, gradients, own = 12 * params / ways, summed * params / ways, 1
    else:  # the frozen weights; the adapters, their moments and gradients, of which half is split at least
        held = 2 if model.lora.base_dtype == "bfloat16" else 4
        fsdp = sizes["fsdp"]
        split = 1.0 if splits_rank(model.lora.rank, fsdp) else 0.5
        share = split / fsdp + (1 - split)
        state, gradients, own = held * params / ways, 16 * num_trained(model) * share, 0
    rows = train.global_batch_rows / (sizes["slices"] * sizes["data"] * sizes["fsdp"])
    tokens = rows / train.accumulate * train.seq_len / sizes["sequence"]
    # What a layer keeps of every token besides its input.
    extra = {
        "attention": N * H / tensor,
        "kv": 2 * K * H / tensor,
        "qkv": N * H / tensor,
        "residual": D,
        "mlp": 2 * F / tensor,
        "none": 2 * D + 2 * F / tensor,
    }
    away = REMAT_SETS.index(train.offload) + 1 if train.offload else 0
    here = REMAT_SETS[away : REMAT_SETS.index(train.remat) + 1]
    elements = D + sum(extra[name] for name in here)
    kept = wide * L * tokens * elements
    # Two layers' gathered weights and one layer's gradients, and its inner activations; or the head.
    gathered = wide * (2 + own) * layer / tensor + wide * tokens * 6 * F / tensor
    chunk = min(train.loss_chunk, tokens)
    head = (wide + 4 * own) * V * D / tensor + 10 * chunk * V / tensor
    return state + gradients + kept + max(gathered, head)
