"""LLaMA as Flax NNX modules over a plain dict of parameters.

- pre-norm blocks: RMSNorm, attention, RMSNorm, SwiGLU; a final RMSNorm
- rotary positions that start anew with each document of a packed row
- grouped-query attention; head_dim is its own number; biases where a model has them
- the head is a matrix of its own or the transposed embedding table
- layers are stacked on a leading axis and scanned; `Block` sees one layer and does not know it

The modules hold shapes, names and arithmetic; everything else passes `params`, nested dicts of
arrays (float32 masters), so a step is a pure function and a checkpoint a plain tree. Each parameter
carries logical axis names, from which `tpu.mesh` derives its sharding.

Shapes: B batch, T time, D embed, N query heads, K kv heads, H head dim, F mlp, V vocabulary, L layers.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from model import attention as attention_lib
from model import lora
from model.attention import Attend
from model.config import REMAT_SETS, LlamaConfig, RematSet
from model.rope import inverse_frequencies, positions_of, rotate, rotations
from model.swiglu import swiglu_down

Params = dict[str, Any]
Gather = Callable[
    [str, Params], Params
]  # ("blocks", one layer's weights) -> the same, whole and cast
# (the token table's weights, int32[B, T]) -> the tokens' rows [B, T, D]
Lookup = Callable[[Params, jax.Array], jax.Array]

_GATHERED = "gathered"
# What each set adds to the one before it. The attention kernel's output always is kept: to form it
# again would run the kernel twice.
_KEPT: dict[RematSet, tuple[str, ...]] = {
    "attention": (attention_lib.SAVED,),
    "kv": ("k", "v"),
    "qkv": ("q",),
    "residual": ("residual",),
    "mlp": ("gate", "up"),
}


def cast_matrices(weights: Params, dtype: Any) -> Params:
    """Matrices in a dtype; the norms' scales stay float32."""

    def cast(path: tuple[Any, ...], value: jax.Array) -> jax.Array:
        return value if path[-1].key == "scale" else value.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, weights)


def cast_only(dtype: jnp.dtype) -> Gather:
    """The `gather` of weights that are whole: matrices in the compute dtype."""
    return lambda part, weights: cast_matrices(weights, dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, in float32."""

    def __init__(self, dim: int, eps: float):
        self.scale = nnx.Param(jnp.ones((dim,)), names=("norm",))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> the same."""
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * inverse * self.scale[...]).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        D, N, K, H = config.embed_dim, config.num_heads, config.num_kv_heads, config.head_dim
        out_std = config.init_std / (2 * config.num_layers) ** 0.5  # residual branches, as in GPT-2
        self.q = _normal(rngs, config.init_std, (D, N, H), ("embed", "heads", "head_dim"))
        self.k = _normal(rngs, config.init_std, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.v = _normal(rngs, config.init_std, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.o = _normal(rngs, out_std, (N, H, D), ("heads", "head_dim", "embed"))
        self.has_bias = config.attention_bias
        if config.attention_bias:
            self.q_bias = nnx.Param(jnp.zeros((N, H)), names=("heads", "head_dim"))
            self.k_bias = nnx.Param(jnp.zeros((K, H)), names=("kv_heads", "head_dim"))
            self.v_bias = nnx.Param(jnp.zeros((K, H)), names=("kv_heads", "head_dim"))
            self.o_bias = nnx.Param(jnp.zeros((D,)), names=("norm",))
        lora.attach(self, config, rngs)

    def __call__(
        self,
        x: jax.Array,
        rotation: tuple[jax.Array, jax.Array],
        segment_ids: jax.Array,
        attend: Attend,
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        q, k, v = lora.add(
            self,
            x,
            q=jnp.einsum("BTD,DNH->BTNH", x, self.q[...]),
            k=jnp.einsum("BTD,DKH->BTKH", x, self.k[...]),
            v=jnp.einsum("BTD,DKH->BTKH", x, self.v[...]),
        )
        if self.has_bias:
            q, k, v = q + self.q_bias[...], k + self.k_bias[...], v + self.v_bias[...]
        q, k = checkpoint_name(rotate(q, rotation), "q"), checkpoint_name(rotate(k, rotation), "k")
        out = attend(q, k, checkpoint_name(v, "v"), segment_ids)
        (out,) = lora.add(self, out, o=jnp.einsum("BTNH,NHD->BTD", out, self.o[...]))
        return out + self.o_bias[...] if self.has_bias else out


class Mlp(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        D, F = config.embed_dim, config.mlp_dim
        out_std = config.init_std / (2 * config.num_layers) ** 0.5
        self.gate = _normal(rngs, config.init_std, (D, F), ("embed", "mlp"))
        self.up = _normal(rngs, config.init_std, (D, F), ("embed", "mlp"))
        self.down = _normal(rngs, out_std, (F, D), ("mlp", "embed"))
        self.has_bias = config.mlp_bias
        if config.mlp_bias:
            self.gate_bias = nnx.Param(jnp.zeros((F,)), names=("mlp",))
            self.up_bias = nnx.Param(jnp.zeros((F,)), names=("mlp",))
            self.down_bias = nnx.Param(jnp.zeros((D,)), names=("norm",))
        lora.attach(self, config, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        gate, up = lora.add(
            self,
            x,
            gate=jnp.einsum("BTD,DF->BTF", x, self.gate[...]),
            up=jnp.einsum("BTD,DF->BTF", x, self.up[...]),
        )
        if self.has_bias:
            gate, up = gate + self.gate_bias[...], up + self.up_bias[...]
        gate, up = checkpoint_name(gate, "gate"), checkpoint_name(up, "up")
        adapter = lora.beside(self, "down")
        narrow = () if adapter is None else (adapter.a[...],)
        out, *low = swiglu_down(gate, up, (self.down[...], *narrow))
        if adapter is not None:
            out = out + adapter.widen(*low)
        return out + self.down_bias[...] if self.has_bias else out


class Block(nnx.Module):
    """One layer."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        self.attn_norm = RMSNorm(config.embed_dim, config.norm_eps)
        self.attn = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config.embed_dim, config.norm_eps)
        self.mlp = Mlp(config, rngs)

    def __call__(
        self,
        x: jax.Array,
        rotation: tuple[jax.Array, jax.Array],
        segment_ids: jax.Array,
        attend: Attend,
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        x = x + self.attn(self.attn_norm(x), rotation, segment_ids, attend)
        x = checkpoint_name(x, "residual")
        # The barrier keeps the norm out of the operands of both products that read it.
        return x + self.mlp(jax.lax.optimization_barrier(self.mlp_norm(x)))


class Embed(nnx.Module):
    """The token table."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        shape = (config.padded_vocab_size, config.embed_dim)
        self.table = _normal(rngs, config.init_std, shape, ("vocab", "embed"))


class Head(nnx.Module):
    """The output matrix of models that do not share the token table."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        shape = (config.embed_dim, config.padded_vocab_size)
        self.kernel = _normal(rngs, config.init_std, shape, ("embed", "vocab"))


class Llama(nnx.Module):
    """All parameters of the network, the layers stacked."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs):
        self.embed = Embed(config, rngs)
        keys = jax.random.split(rngs.params(), config.num_layers)
        self.blocks = nnx.vmap(lambda key: Block(config, nnx.Rngs(params=key)))(keys)
        self.final_norm = RMSNorm(config.embed_dim, config.norm_eps)
        if not config.tied_head:
            self.head = Head(config, rngs)


def init_params(config: LlamaConfig, key: jax.Array) -> Params:
    """Random float32 weights; the rows of a padded vocabulary are zero. Jit it with out_shardings.

    Where adapters are trained, the other matrices are in the dtype that they are held in.
    """
    params = nnx.to_pure_dict(nnx.state(Llama(config, nnx.Rngs(params=key))))
    real = jnp.arange(config.padded_vocab_size) < config.vocab_size
    params["embed"]["table"] *= real[:, None]
    if not config.tied_head:
        params["head"]["kernel"] *= real[None, :]
    return params if config.lora is None else lora.freeze(params, config.lora)


def abstract_params(config: LlamaConfig) -> Params:
    """The parameter tree as ShapeDtypeStructs; needs no device."""
    return jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))


def param_names(config: LlamaConfig) -> Params:
    """The parameter tree with each array's logical axis names, e.g. ("layers", "embed", "mlp")."""
    state = nnx.state(nnx.eval_shape(lambda: Llama(config, nnx.Rngs(params=jax.random.key(0)))))
    names: Params = {}
    for path, variable in state.flat_state():
        part = names
        for key in path[:-1]:
            part = part.setdefault(str(key), {})
        layers = ("layers",) if path[0] == "blocks" else ()
        part[str(path[-1])] = layers + tuple(variable.get_metadata("names"))
    return names


def num_params(config: LlamaConfig) -> int:
    """Parameters of the network as published: without the vocabulary's padding, without adapters."""
    unpadded = lora.without(config).model_copy(update={"vocab_multiple": 1})
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(unpadded)))


def hidden_states(
    params: Params,
    config: LlamaConfig,
    tokens: jax.Array,
    segment_ids: jax.Array,
    positions: jax.Array,
    *,
    gather: Gather,
    lookup: Lookup | None = None,
    attend: Attend = attention_lib.xla,
    remat: RematSet = "none",
    offload: RematSet | None = None,
) -> jax.Array:
    """The network up to and with the final norm: int32[B, T] -> [B, T, D] in the compute dtype.

    `gather` makes a part of the weights whole and casts it; it is called inside the scan, layer by
    layer, so no device ever holds more than one gathered layer (and its backward twin). `lookup`
    finds the tokens' rows of a table that is not whole; by default the table is gathered. What
    `remat` keeps waits in the host's memory up to and with the set `offload`.
    """
    if lookup is None:
        x = embed(gather("embed", params["embed"]), tokens)
    else:
        x = lookup(params["embed"], tokens)
    rotation = rotations(positions, inverse_frequencies(config))
    graph, _ = nnx.split(nnx.eval_shape(lambda: Block(config, nnx.Rngs(params=jax.random.key(0)))))

    def layer(x: jax.Array, weights: Params) -> tuple[jax.Array, None]:
        weights = checkpoint_name(gather("blocks", weights), _GATHERED)
        return nnx.merge(graph, weights)(x, rotation, segment_ids, attend), None

    x, _ = jax.lax.scan(_rematerialised(layer, remat, offload), x, params["blocks"])
    norm = RMSNorm(config.embed_dim, config.norm_eps)
    norm.scale = nnx.Param(params["final_norm"]["scale"])
    return norm(x)


def embed(weights: Params, tokens: jax.Array) -> jax.Array:
    """Rows of the token table: int32[B, T] -> [B, T, D]."""
    return jnp.take(weights["table"], tokens, axis=0)


def head_matrix(params: Params, config: LlamaConfig, gather: Gather) -> jax.Array:
    """The output matrix [D, Vpad], whole and cast."""
    if config.tied_head:
        return gather("embed", params["embed"])["table"].T
    return gather("head", params["head"])["kernel"]


def forward(
    params: Params,
    config: LlamaConfig,
    tokens: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    positions: jax.Array | None = None,
    compute_dtype: jnp.dtype = jnp.float32,
    attend: Attend = attention_lib.xla,
) -> jax.Array:
    """Logits for every token, float32[B, T, V]: for parity checks and small evaluation.

    Without segment_ids each row is one document.
    """
    if segment_ids is None:
        segment_ids = jnp.ones_like(tokens)
    if positions is None:
        positions = positions_of(segment_ids)
    gather = cast_only(compute_dtype)
    x = hidden_states(params, config, tokens, segment_ids, positions, gather=gather, attend=attend)
    logits = jnp.einsum("BTD,DV->BTV", x, head_matrix(params, config, gather))
    return logits[..., : config.vocab_size].astype(jnp.float32)


def _rematerialised(layer: Callable, remat: RematSet, offload: RematSet | None) -> Callable:
    """What the backward pass finds kept. Gathered weights never are: they are gathered again."""
    policies = jax.checkpoint_policies
    if remat == "none":
        policy = policies.save_anything_except_these_names(_GATHERED)
    else:
        kept, away = _names(remat), _names(offload) if offload else []
        policy = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[name for name in kept if name not in away],
            names_which_can_be_offloaded=[name for name in kept if name in away],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return jax.checkpoint(layer, policy=policy, prevent_cse=False)


def _names(largest: RematSet) -> list[str]:
    """What the sets up to and with one of them keep."""
    sets = REMAT_SETS[: REMAT_SETS.index(largest) + 1]
    return [*itertools.chain(*(_KEPT[name] for name in sets))]


def _normal(
    rngs: nnx.Rngs, std: float, shape: tuple[int, ...], names: tuple[str, ...]
) -> nnx.Param:
    return nnx.Param(std * jax.random.normal(rngs.params(), shape), names=names)
