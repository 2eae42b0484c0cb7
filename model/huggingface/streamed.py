"""A forward pass that holds one layer at a time, ours and transformers' alike.

Slow, and bounded in memory whatever the model: the written folder of a 70B model is checked against its
checkpoint on any machine that can export it. All arithmetic is float32.
"""

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model import attention
from model.config import LlamaConfig
from model.huggingface.names import Tensor, tensors, to_ours
from model.llama import Block, RMSNorm
from model.rope import inverse_frequencies, positions_of, rotations

ReadTheirs = Callable[[Tensor], np.ndarray]  # a whole tensor of theirs, in any float dtype

_ROWS = 16_384  # vocabulary rows made float32 at a time


def our_logits(config: LlamaConfig, read: ReadTheirs, tokens: np.ndarray) -> np.ndarray:
    """Logits of our network, float32 `[B, T, V]`, for int32 `[B, T]`; every row is one document.

    Every tensor is read once, in their layout, in the order of `names.tensors`, and dropped after use.
    """
    with _exact():
        block = _block(cast(Hashable, config))
        by_key: dict[str, list[Tensor]] = {}
        for tensor in tensors(config):
            by_key.setdefault(tensor.key, []).append(tensor)
        table = read(by_key.pop("embed/table")[0])
        x = jnp.asarray(table[tokens].astype(np.float32))
        if not config.tied_head:
            table = None
        last = {
            key: by_key.pop(key)[0] for key in ("final_norm/scale", "head/kernel") if key in by_key
        }
        for layer in range(config.num_layers):
            weights: dict[str, Any] = {}
            for key, layers in by_key.items():
                part, (*path, name) = weights, key.removeprefix("blocks/").split("/")
                for step in path:
                    part = part.setdefault(step, {})
                tensor = layers[layer]
                ours = to_ours(read(tensor), tensor.layout, tensor.ours)
                part[name] = jnp.asarray(ours.astype(np.float32, copy=False))
            x = block(weights, x).block_until_ready()
        norm = RMSNorm(config.embed_dim, config.norm_eps)
        norm.scale = nnx.Param(jnp.asarray(read(last["final_norm/scale"]).astype(np.float32)))
        x = norm(x)
        head = table if table is not None else read(last["head/kernel"])
        logits = np.empty((*tokens.shape, config.vocab_size), np.float32)
        for start in range(0, len(head), _ROWS):
            rows = jnp.asarray(head[start : start + _ROWS].astype(np.float32))
            logits[..., start : start + len(rows)] = jnp.einsum("BTD,VD->BTV", x, rows)
        return logits


def their_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """The same of transformers' network, each of its modules filled when called and emptied after."""
    import safetensors
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    with contextlib.ExitStack() as stack, torch.no_grad():
        where: dict[str, Any] = {}
        for file in sorted(Path(folder).glob("*.safetensors")):
            handle = stack.enter_context(safetensors.safe_open(str(file), "pt"))
            where |= dict.fromkeys(handle.keys(), handle)
        if config.tie_word_embeddings:
            where.setdefault("lm_head.weight", where["model.embed_tokens.weight"])

        def fill(module: Any, prefix: str) -> None:
            state = {}
            for name, _ in module.named_parameters():
                full = f"{prefix}.{name}"
                tied = config.tie_word_embeddings and full == "lm_head.weight"
                stored = "model.embed_tokens.weight" if tied else full
                state[name] = where[full].get_tensor(stored).float()
            module.load_state_dict(state, assign=True)

        parts = [("model.embed_tokens", model.model.embed_tokens), ("model.norm", model.model.norm)]
        parts += [(f"model.layers.{i}", layer) for i, layer in enumerate(model.model.layers)]
        parts += [("lm_head", model.lm_head)]
        for prefix, module in parts:
            module.register_forward_pre_hook(lambda m, _, prefix=prefix: fill(m, prefix))
            module.register_forward_hook(lambda m, *_: m.to("meta") and None)
        return model(torch.tensor(tokens).long(), use_cache=False).logits.numpy()


@functools.lru_cache(maxsize=4)
def _block(config: Any) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    graph, _ = nnx.split(nnx.eval_shape(lambda: Block(config, nnx.Rngs(params=jax.random.key(0)))))

    @jax.jit
    def block(weights: dict[str, Any], x: jax.Array) -> jax.Array:
        segment_ids = jnp.ones(x.shape[:2], jnp.int32)
        rotation = rotations(positions_of(segment_ids), inverse_frequencies(config))
        return nnx.merge(graph, weights)(x, rotation, segment_ids, attention.xla)

    return block


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Full float32 products, on the host's CPU where there is one to be had."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        device = jax.local_devices()[0]
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        yield
