"""Gradients over several slices: summed inside each, and only a device's share crosses the data-centre network."""

import importlib.util

import jax
import pytest

from configs.recipe import TrainRecipe
from model.llama import abstract_params
from tpu.compile import figures, flags_of
from tpu.mesh import make_mesh
from tpu.programs import model_of, train_step
from tpu.reading import read as read_hlo
from tpu.settings import settle
from tpu.topology import described, generations

SLICES, CHIPS = 2, 16
RECIPE = {
    "run_dir": "runs/none",
    "tokenizer": "nowhere",
    "model": {
        "vocab_size": 512,
        "embed_dim": 256,
        "mlp_dim": 512,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 2,
        "head_dim": 128,
    },
    "streams": {"one": {"path": "nowhere"}},
    "train": {"num_steps": 1, "seq_len": 256, "global_batch_rows": SLICES * CHIPS},
    "mesh": {"slices": SLICES},
}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is for Linux on x86-64"
)
def test_only_a_devices_share_of_the_gradients_goes_to_the_other_slice(monkeypatch, tmp_path):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    recipe = TrainRecipe.model_validate(RECIPE)
    devices = described("v5e:4x4", slices=SLICES)
    mesh = make_mesh(recipe.mesh, devices)
    assert (mesh.shape["slice"], mesh.shape["fsdp_x"], mesh.shape["fsdp_y"]) == (SLICES, 4, 4)
    train = settle(recipe.train, devices[0].device_kind, need=lambda _: 0.0, capacity=None)[0]
    seen = []
    monkeypatch.setattr("tpu.compile.read", lambda text: seen.append(read_hlo(text)) or seen[-1])
    found = figures(
        train_step(recipe, train, mesh),
        generations()["v5e"],
        flags_of(devices[0], {}),
        cache=tmp_path,
    )
    order = list(mesh.devices.flat)
    across = [c for c in seen[0].collectives if len({order[i].slice_index for i in c.group}) > 1]
    assert {c.kind for c in across} == {"all-reduce"}
    sent = sum(c.payload * c.count for c in across)
    sizes = [x.size for x in jax.tree.leaves(abstract_params(model_of(recipe))) if x.ndim > 2]
    matrices = 4 * (sum(sizes) + 2 * 512 * 256)
    norms = 4 * 5 * 256
    assert matrices / CHIPS <= sent <= matrices / CHIPS + norms + 4096
    # At the network's speed, and not at the torus's: the whole of it is not hidden.
    seconds = sent / (generations()["v5e"].dcn_gbps * 1e9)
    assert found["seconds"]["collectives_not_hidden"] >= seconds
