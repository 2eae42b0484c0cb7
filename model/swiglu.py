"""SwiGLU and the product behind it, with a gradient that keeps elementwise work out of matmuls.

Left alone, XLA fuses the derivative of `silu(gate) * up` into the operands of the backward products
and computes it again for each of them; on a TPU such products run at about half speed. Behind a
product the same work is free. So barriers keep it out of the products that read it, and none stands
between it and the one product whose result it takes last: `up`'s forward, `hidden_grad`'s backward.
"""

import jax
import jax.numpy as jnp

_apart = jax.lax.optimization_barrier


@jax.custom_vjp
def swiglu_down(gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """down(silu(gate) * up): two [B, T, F] and [F, D] -> [B, T, D]."""
    return _forward(gate, up, down)[0]


def _forward(
    gate: jax.Array, up: jax.Array, down: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    gate = _apart(gate)
    hidden = _apart(jax.nn.silu(gate) * up)
    return jnp.einsum("BTF,FD->BTD", hidden, down), (gate, up, down)


def _backward(
    saved: tuple[jax.Array, jax.Array, jax.Array], grad: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    gate, up, down = saved
    gate, up = _apart((gate, up))
    hidden_grad = jnp.einsum("BTD,FD->BTF", grad, down)
    hidden, pull = jax.vjp(lambda gate, up: jax.nn.silu(gate) * up, gate, up)
    hidden, gate_grad, up_grad = _apart((hidden, *pull(hidden_grad)))
    return gate_grad, up_grad, jnp.einsum("BTF,BTD->FD", hidden, grad)


swiglu_down.defvjp(_forward, _backward)
