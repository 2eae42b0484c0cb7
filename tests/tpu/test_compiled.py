"""The table of models and slices that are known to fit: what its rows mean, and how they are shown."""

import importlib.util

import pytest
import yaml

from tpu.compiled import ROWS, recipe_of, table
from tpu.mesh import make_mesh
from tpu.topology import described

FIGURES = {
    "model": "llama31_8b",
    "topology": "v5p:2x2x4",
    "slices": 2,
    "mesh": {"sequence": 4},
    "rows": 0.25,
    "seq_len": 32768,
    "remat": "qkv",
    "state_bytes": 2**30,
    "peak_bytes": 2**31,
    "step_seconds": 1.5,
    "compile_seconds": 60.0,
    "host_rss_bytes": 2**31,
}


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is for Linux on x86-64"
)
@pytest.mark.parametrize("name", yaml.safe_load(ROWS.read_text())["rows"])
def test_every_row_is_a_batch_that_its_mesh_divides(name, root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    row = yaml.safe_load(ROWS.read_text())["rows"][name]
    recipe = recipe_of(row)
    devices = described(row["topology"], slices=recipe.mesh.slices)
    mesh = make_mesh(recipe.mesh, devices)
    assert mesh.shape["sequence"] == row.get("mesh", {}).get("sequence", 1)
    assert recipe.train.seq_len % mesh.shape["sequence"] == 0
    ways = len(devices) // (mesh.shape["tensor"] * mesh.shape["sequence"])
    assert recipe.train.global_batch_rows % ways == 0
    if "rows" in row:
        assert recipe.train.global_batch_rows == row["rows"] * len(devices)


def test_the_table_names_slices_and_axes():
    text = table({"one": FIGURES}).splitlines()[-1]
    assert text.startswith(
        "| llama31_8b | v5p:2x2x4, slices 2, sequence 4 | 0.25 x 32,768 | qkv | 1.00, 2.00 | 1.50 |"
    )
    without = {key: value for key, value in FIGURES.items() if key != "mesh"} | {"slices": 1}
    assert "| v5p:2x2x4 |" in table({"one": without})
