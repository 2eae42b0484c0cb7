"""Log-probabilities of chosen tokens behind hidden states, logits only at the positions that need them.

Shapes: Q targets, S positions at a time, D embed, V vocabulary.
"""

import jax
import jax.numpy as jnp

from model.config import LlamaConfig


def read_out(
    hidden: jax.Array,
    head: jax.Array,
    config: LlamaConfig,
    batch: dict[str, jax.Array],
    size: int,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities float32[Q] of the targets, and whether each was the likeliest token.

    `read` lists the positions with logits, `num_read` of them count, and `slots` says which of them a
    target is predicted from. The loop over chunks of `size` positions ends with the last one that counts.
    `head` is [V, D] where it is the token table, else [D, V].
    """
    read, slots, targets = batch["read"], batch["slots"], batch["targets"]
    real = jnp.arange(config.padded_vocab_size) < config.vocab_size
    names, rows = ("VD", head[targets]) if config.tied_head else ("DV", head[:, targets].T)
    padded = jnp.pad(read, (0, -len(read) % size))

    def chunk(i: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        norms, likeliest = found
        at = jax.lax.dynamic_slice(padded, (i * size,), (size,))
        logits = jnp.einsum(f"SD,{names}->SV", hidden[at], head, preferred_element_type=jnp.float32)
        logits = jnp.where(real, logits, -jnp.inf)
        norm = jax.nn.logsumexp(logits, axis=-1)
        return (
            jax.lax.dynamic_update_slice(norms, norm, (i * size,)),
            jax.lax.dynamic_update_slice(
                likeliest, jnp.argmax(logits, axis=-1).astype(jnp.int32), (i * size,)
            ),
        )

    start = jnp.zeros(len(padded), jnp.float32), jnp.zeros(len(padded), jnp.int32)
    chunks = (batch["num_read"][0] + size - 1) // size
    norms, likeliest = jax.lax.fori_loop(0, chunks, chunk, start)
    logit = jnp.einsum("QD,QD->Q", hidden[read[slots]], rows, preferred_element_type=jnp.float32)
    return logit - norms[slots], likeliest[slots] == targets
