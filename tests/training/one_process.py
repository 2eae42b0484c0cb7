"""One of several processes of a layout test: `python one_process.py OUT ACCUMULATE FSDP TENSOR`."""

import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.training.layouts import CONFIG, run
from tpu.config import MeshConfig
from tpu.mesh import make_mesh
from tpu.runtime import start


def main() -> None:
    out, accumulate, fsdp, tensor = sys.argv[1], *map(int, sys.argv[2:])
    start()
    mesh = make_mesh(MeshConfig(fsdp=fsdp, tensor=tensor))
    grads, curve, metrics = run(CONFIG, mesh, accumulate=accumulate)
    if jax.process_index() == 0:
        leaves = {f"grad{i}": x for i, x in enumerate(jax.tree.leaves(grads))}
        np.savez(out, curve=curve, **leaves, **{f"metric {k}": v for k, v in metrics.items()})


if __name__ == "__main__":
    main()
