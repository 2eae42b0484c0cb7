"""Low-rank adapters (LoRA: Hu et al., arXiv 2106.09685, section 4): what is trained beside frozen weights.

For a matrix W with an adapter the network computes `x W + (alpha / rank) (x A) B`. A begins random and B
zero, so a run begins as the weights it starts from. The adapters are parameters like all others, under
`<matrix>_lora` with `a` [*in, r] and `b` [r, *out], so that whatever gathers, shards or saves parameters
knows them. Only training sees them apart: export and evaluation add them to the matrices.
"""

import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from model.config import LlamaConfig, LoraConfig

Params = dict[str, Any]

SUFFIX = "_lora"
_INPUTS = {"o": 2}  # dims of a matrix that are its input, where it is not the first alone


class Adapter(nnx.Module):
    """The pair beside one matrix."""

    def __init__(self, matrix: nnx.Param, inputs: int, lora: LoraConfig, rngs: nnx.Rngs):
        names, shape = matrix.get_metadata("names"), matrix.shape
        bound = math.prod(shape[:inputs]) ** -0.5
        a = jax.random.uniform(
            rngs.params(), (*shape[:inputs], lora.rank), minval=-bound, maxval=bound
        )
        self.a = nnx.Param(a, names=(*names[:inputs], "rank"))
        self.b = nnx.Param(jnp.zeros((lora.rank, *shape[inputs:])), names=("rank", *names[inputs:]))
        self.inputs, self.factor = inputs, lora.scale

    def widen(self, low: jax.Array) -> jax.Array:
        """[B, T, r] -> [B, T, *out]."""
        return jnp.tensordot(low, self.b[...], 1) * self.factor


def attach(module: nnx.Module, config: LlamaConfig, rngs: nnx.Rngs) -> None:
    """Puts an adapter beside each of a module's matrices that the shape names."""
    if config.lora is None:
        return
    for name in config.lora.targets:
        if (matrix := getattr(module, name, None)) is not None:
            adapter = Adapter(matrix, _INPUTS.get(name, 1), config.lora, rngs)
            setattr(module, name + SUFFIX, adapter)


def beside(module: nnx.Module, name: str) -> Adapter | None:
    """The adapter of a module's matrix, if it has one."""
    return getattr(module, name + SUFFIX, None)


def add(module: nnx.Module, x: jax.Array, **products: jax.Array) -> tuple[jax.Array, ...]:
    """The products of `x` with a module's matrices, with what their adapters say to it.

    The narrow products of one input are one, which reads it once.
    """
    adapters = {name: pair for name in products if (pair := beside(module, name)) is not None}
    if adapters:
        pairs = adapters.values()
        narrow = jnp.concatenate([pair.a[...] for pair in pairs], axis=-1)
        low = jnp.tensordot(x, narrow, next(iter(pairs)).inputs)
        parts = jnp.split(low, len(adapters), axis=-1)
        for (name, pair), part in zip(adapters.items(), parts, strict=True):
            products[name] += pair.widen(part)
    return tuple(products.values())


def split(tree: Params) -> tuple[Params, Params]:
    """(what is trained, what is frozen): without adapters everything, and nothing.

    `tree` has the parameters' structure: arrays, shapes, specs or shardings.
    """
    flat = flatten_dict(tree)
    trained = {path: leaf for path, leaf in flat.items() if _is_adapter(path)}
    if not trained:
        return tree, {}
    frozen = {path: leaf for path, leaf in flat.items() if path not in trained}
    return unflatten_dict(trained), unflatten_dict(frozen)


def join(trained: Params, frozen: Params) -> Params:
    """The inverse of `split`."""
    if not frozen:
        return trained
    return unflatten_dict(flatten_dict(trained) | flatten_dict(frozen))


def without(config: LlamaConfig) -> LlamaConfig:
    """The shape of the network alone."""
    return config.model_copy(update={"lora": None})


def num_trained(config: LlamaConfig) -> int:
    """Parameters of all adapters; 0 where there are none."""
    if config.lora is None:
        return 0
    D, F, H = config.embed_dim, config.mlp_dim, config.head_dim
    N, K = config.num_heads, config.num_kv_heads
    both = {"q": D + N * H, "k": D + K * H, "v": D + K * H, "o": N * H + D}
    both |= dict.fromkeys(("gate", "up", "down"), D + F)
    return config.num_layers * config.lora.rank * sum(both[name] for name in config.lora.targets)


def note(config: LlamaConfig) -> str:
    """What to say of the adapters behind the number of parameters; nothing where there are none."""
    if config.lora is None:
        return ""
    return f" and {num_trained(config):,} in adapters of rank {config.lora.rank}, which alone are trained"


def freeze(weights: Params, lora: LoraConfig) -> Params:
    """The network's weights as a run with adapters holds them: matrices in `base_dtype`, adapters untouched."""

    def hold(path: tuple[Any, ...], value: jax.Array) -> jax.Array:
        names = tuple(part.key for part in path)
        kept = names[-1] == "scale" or _is_adapter(names)
        return value if kept else value.astype(lora.base_dtype)

    return jax.tree_util.tree_map_with_path(hold, weights)


def merge(params: Params, config: LlamaConfig) -> Params:
    """The adapters added to their matrices: float32 weights of `without(config)`. Jit it with out_shardings."""
    trained, frozen = split(params)
    if config.lora is None:
        return trained
    weights = jax.tree.map(lambda x: x.astype(jnp.float32), frozen)
    for block, adapters in trained["blocks"].items():
        for name, pair in adapters.items():
            product = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1))(pair["a"], pair["b"])
            matrix = name.removesuffix(SUFFIX)
            weights["blocks"][block][matrix] += product * config.lora.scale
    return weights


class LayerSource(Protocol):
    """A checkpoint step on the host, as export reads it: `training.checkpoint.LayerReader`."""

    meta: dict[str, Any]

    def read(self, key: str, layer: int | None = None) -> np.ndarray:
        """An array, or one layer of it."""
        ...

    def verify(self) -> None:
        """Raises when what was read is not what was saved."""
        ...


class Merged:
    """A step as the network alone: where it has adapters, read in float32 with them added, layer by layer."""

    def __init__(self, reader: LayerSource):
        self.meta, self._reader = reader.meta, reader
        self._lora = LlamaConfig(**reader.meta["model"]).lora

    def read(self, key: str, layer: int | None = None) -> np.ndarray:
        """An array of the network, or one layer of it."""
        value = self._reader.read(key, layer)
        if self._lora is None:
            return value
        value = value.astype(np.float32, copy=False)
        if not key.startswith("blocks/") or key.split("/")[-1] not in self._lora.targets:
            return value
        a, b = (self._reader.read(f"{key}{SUFFIX}/{one}", layer) for one in "ab")
        return value + np.tensordot(a, b, 1) * np.float32(self._lora.scale)

    def verify(self) -> None:
        """Raises when what was read is not what was saved."""
        self._reader.verify()


def _is_adapter(path: tuple[str, ...]) -> bool:
    return len(path) > 1 and path[-2].endswith(SUFFIX)
