"""The arithmetic that a traced program asks for, counted from its jaxpr over all devices.

Matrix products outside of kernels, and for every Pallas kernel its calls and the products of its whole
grid, masked blocks too. Scans count as often as they run; of a `while` loop whose trips are not known
when it is traced, one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Asked:
    """FLOPs over all devices.

    Attributes:
        dots: matrix products, 2mnk each.
        kernels: by kernel name, (calls, FLOPs of all of them).
    """

    dots: float = 0.0
    kernels: dict[str, tuple[float, float]] = field(default_factory=dict)

    def a_call(self, name: str) -> float:
        """FLOPs of one call of a kernel on one device."""
        calls, flops = self.kernels[name]
        return flops / calls


def count(jaxpr: Any) -> Asked:
    """Counts a closed jaxpr (`traced.jaxpr`) without what nothing depends on, such as frozen weights' gradients."""
    from jax.interpreters.partial_eval import dce_jaxpr

    asked, whole = Asked(), jaxpr.jaxpr
    alive, _ = dce_jaxpr(whole, [True] * len(whole.outvars))
    _add(asked, alive, 1.0)
    return asked


def _add(asked: Asked, jaxpr: Any, times: float) -> None:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = times
        if name == "dot_general":
            asked.dots += times * _dot(equation)
        elif name == "pallas_call":
            kernel = str(equation.params["name"])
            grid = math.prod(n for n in equation.params["grid_mapping"].grid if isinstance(n, int))
            body = Asked()
            for sub in _within(equation.params):
                _add(body, sub, 1.0)
            calls, flops = asked.kernels.get(kernel, (0.0, 0.0))
            asked.kernels[kernel] = (calls + times, flops + times * grid * body.dots)
            continue
        elif name == "scan":
            inner = times * equation.params["length"]
        elif name == "shard_map":
            # Its body is what one device does along the axes that it is manual over.
            sizes = equation.params["mesh"].shape
            axes = equation.params["newly_manual_axes"]
            inner = times * math.prod(sizes[a] for a in axes)
        for sub in _within(equation.params):
            _add(asked, sub, inner)


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2.0 * math.prod(out) * math.prod(left[i] for i in contracted)


def _within(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs in an equation's parameters."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else [value]:
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner
