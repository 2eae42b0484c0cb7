"""SwiGLU and the product behind it, with a gradient that keeps elementwise work out of matmuls.

Left alone, XLA fuses the derivative of `silu(gate) * up` into the operands of the backward products
and computes it again for each of them; on a TPU such products run at about half speed. Behind a
product the same work is free. So barriers keep it out of the products that read it, and none stands
between it and the one product whose result it takes last: `up`'s forward, `hidden_grad`'s backward.
"""

import functools

import jax
import jax.numpy as jnp

_apart = jax.lax.optimization_barrier


@jax.custom_vjp
def swiglu_down(
    gate: jax.Array, up: jax.Array, down: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    """silu(gate) * up, two [B, T, F], times each of `down`, [F, D] each: [B, T, D] each."""
    return _forward(gate, up, down)[0]


def _forward(
    gate: jax.Array, up: jax.Array, down: tuple[jax.Array, ...]
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]]:
    gate = _apart(gate)
    hidden = _apart(jax.nn.silu(gate) * up)
    return tuple(jnp.einsum("BTF,FD->BTD", hidden, one) for one in down), (gate, up, down)


def _backward(
    saved: tuple[jax.Array, jax.Array, tuple[jax.Array, ...]], grads: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    gate, up, down = saved
    gate, up = _apart((gate, up))
    parts = [jnp.einsum("BTD,FD->BTF", g, one) for g, one in zip(grads, down, strict=True)]
    hidden_grad = functools.reduce(jnp.add, parts)
    hidden, pull = jax.vjp(lambda gate, up: jax.nn.silu(gate) * up, gate, up)
    hidden, gate_grad, up_grad = _apart((hidden, *pull(hidden_grad)))
    return gate_grad, up_grad, tuple(jnp.einsum("BTF,BTD->FD", hidden, g) for g in grads)


swiglu_down.defvjp(_forward, _backward)
