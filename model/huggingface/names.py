"""One table of names and layouts, ours <-> Hugging Face's, read both ways.

A Hugging Face matrix is `[out, in]` with heads flattened; ours keeps the dims apart and puts the
input first (`blocks/attn/q` is `[D, N, H]`, theirs `[N*H, D]`). A layout says how to get theirs
from ours: for each dim of theirs, the dims of ours (of one layer) that are flattened into it,
outermost first. Nothing is permuted inside a head: both use the rotate-half convention.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.config import LlamaConfig
from model.llama import abstract_params

Layout = tuple[tuple[int, ...], ...]

VECTOR: Layout = ((0,),)  # [D] -> [D]
TABLE: Layout = ((0,), (1,))  # [V, D] -> [V, D]
TRANSPOSED: Layout = ((1,), (0,))  # [D, F] -> [F, D]
SPLIT_HEADS: Layout = ((1, 2), (0,))  # [D, N, H] -> [N*H, D]
JOINED_HEADS: Layout = ((2,), (0, 1))  # [N, H, D] -> [D, N*H]
HEAD_VECTOR: Layout = ((0, 1),)  # [N, H] -> [N*H]

HF_NAMES: dict[str, tuple[str, Layout]] = {  # ours -> (theirs, layout); `*` is the layer
    "embed/table": ("model.embed_tokens.weight", TABLE),
    "blocks/attn/q": ("model.layers.*.self_attn.q_proj.weight", SPLIT_HEADS),
    "blocks/attn/q_bias": ("model.layers.*.self_attn.q_proj.bias", HEAD_VECTOR),
    "blocks/attn/k": ("model.layers.*.self_attn.k_proj.weight", SPLIT_HEADS),
    "blocks/attn/k_bias": ("model.layers.*.self_attn.k_proj.bias", HEAD_VECTOR),
    "blocks/attn/v": ("model.layers.*.self_attn.v_proj.weight", SPLIT_HEADS),
    "blocks/attn/v_bias": ("model.layers.*.self_attn.v_proj.bias", HEAD_VECTOR),
    "blocks/attn/o": ("model.layers.*.self_attn.o_proj.weight", JOINED_HEADS),
    "blocks/attn/o_bias": ("model.layers.*.self_attn.o_proj.bias", VECTOR),
    "blocks/mlp/gate": ("model.layers.*.mlp.gate_proj.weight", TRANSPOSED),
    "blocks/mlp/gate_bias": ("model.layers.*.mlp.gate_proj.bias", VECTOR),
    "blocks/mlp/up": ("model.layers.*.mlp.up_proj.weight", TRANSPOSED),
    "blocks/mlp/up_bias": ("model.layers.*.mlp.up_proj.bias", VECTOR),
    "blocks/mlp/down": ("model.layers.*.mlp.down_proj.weight", TRANSPOSED),
    "blocks/mlp/down_bias": ("model.layers.*.mlp.down_proj.bias", VECTOR),
    "blocks/attn_norm/scale": ("model.layers.*.input_layernorm.weight", VECTOR),
    "blocks/mlp_norm/scale": ("model.layers.*.post_attention_layernorm.weight", VECTOR),
    "final_norm/scale": ("model.norm.weight", VECTOR),
    "head/kernel": ("lm_head.weight", TRANSPOSED),
}

# Dim of one layer of ours that counts vocabulary entries: padded here, not there.
VOCAB_DIMS = {"embed/table": 0, "head/kernel": 1}


@dataclass(frozen=True)
class Tensor:
    """One Hugging Face tensor and where it lives in our tree.

    Attributes:
        name: theirs, e.g. `model.layers.3.mlp.up_proj.weight`.
        shape: theirs, vocabulary unpadded.
        key: ours, the path joined by "/".
        layer: index into the stacked array, None where there is no layer dim.
        layout: how theirs is made of ours.
        ours: shape of one layer of ours, vocabulary unpadded.
    """

    name: str
    shape: tuple[int, ...]
    key: str
    layer: int | None
    layout: Layout
    ours: tuple[int, ...]


def tensors(config: LlamaConfig) -> list[Tensor]:
    """Every tensor of a checkpoint of this shape, in the order in which transformers writes them."""
    by_layer: dict[int | None, list[Tensor]] = {None: []}
    shapes = {key: leaf.shape for key, leaf in flatten(abstract_params(config)).items()}
    unnamed = set(shapes) - set(HF_NAMES)
    assert not unnamed, f"parameters without a Hugging Face name: {unnamed}"
    for key, (pattern, layout) in HF_NAMES.items():
        if key not in shapes:
            continue
        layers: Sequence[int | None] = [None]
        ours = shapes[key]
        if key.startswith("blocks/"):
            layers, ours = [*range(ours[0])], ours[1:]
        if key in VOCAB_DIMS:
            dim = VOCAB_DIMS[key]
            ours = (*ours[:dim], config.vocab_size, *ours[dim + 1 :])
        for layer in layers:
            name = pattern.replace("*", str(layer))
            tensor = Tensor(name, their_shape(ours, layout), key, layer, layout, ours)
            by_layer.setdefault(layer, []).append(tensor)
    embed, *rest = by_layer.pop(None)
    return [embed, *(t for layer in by_layer for t in by_layer[layer]), *rest]


def their_shape(ours: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """The shape of theirs for the shape of one layer of ours."""
    return tuple(math.prod(ours[d] for d in dims) for dims in layout)


def to_theirs(ours: np.ndarray, layout: Layout) -> np.ndarray:
    """One layer of ours in their layout: a view where numpy can make one."""
    order = [d for dims in layout for d in dims]
    return ours.transpose(order).reshape(their_shape(ours.shape, layout))


def to_ours(theirs: np.ndarray, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of to_theirs; `shape` is that of one layer of ours."""
    order = [d for dims in layout for d in dims]
    split = theirs.reshape([shape[d] for d in order])
    return split.transpose(np.argsort(order))


def read_slice(
    read: Callable[[tuple[slice, ...]], np.ndarray], tensor: Tensor, index: tuple[slice, ...]
) -> np.ndarray:
    """A part of one layer of ours, reading no more of theirs than its enclosing box.

    Args:
        read: gives a box of theirs.
        tensor: which one.
        index: slices into one layer of ours, with start and stop; beyond the vocabulary there are
            zeros.
    """
    inside = [
        slice(min(s.start, n), min(s.stop, n)) for s, n in zip(index, tensor.ours, strict=True)
    ]
    if any(s.start >= s.stop for s in inside):  # all of it is vocabulary padding
        return np.zeros([s.stop - s.start for s in index], np.float32)
    box, shape, within = [], list(tensor.ours), [slice(None)] * len(index)
    for outer, *inner in tensor.layout:
        stride = math.prod(tensor.ours[d] for d in inner)
        box.append(slice(inside[outer].start * stride, inside[outer].stop * stride))
        shape[outer] = inside[outer].stop - inside[outer].start
        for d in inner:  # read whole, then cut: a box of theirs cannot skip inside a flattened dim
            within[d] = inside[d]
    part = to_ours(read(tuple(box)), tensor.layout, tuple(shape))[tuple(within)]
    padding = [(0, (s.stop - s.start) - n) for s, n in zip(index, part.shape, strict=True)]
    return np.pad(part, padding) if any(after for _, after in padding) else part


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as {path joined by "/": leaf}."""
    return dict(_leaves(tree, prefix))


def unflatten(leaves: dict[str, Any]) -> dict[str, Any]:
    """The inverse of flatten."""
    tree: dict[str, Any] = {}
    for key, leaf in leaves.items():
        part, (*path, last) = tree, key.split("/")
        for name in path:
            part = part.setdefault(name, {})
        part[last] = leaf
    return tree


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
