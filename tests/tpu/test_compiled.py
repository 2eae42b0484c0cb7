"""The table of models and slices that are known to fit: what its rows mean, and how they are shown."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.load import load_recipe
from configs.recipe import TrainRecipe
from tpu.compiled import FILE, ROWS, recipe_of, table
from tpu.mesh import make_mesh
from tpu.programs import model_of
from tpu.topology import described

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PLANNED = sorted(
    str(path.relative_to(CONFIGS.parent))
    for path in CONFIGS.rglob("*.yaml")
    if "compiler's peak" in path.read_text()
)

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


def step_of(recipe: TrainRecipe) -> tuple[Any, ...]:
    """What a step's memory and time depend on."""
    model = model_of(recipe)
    train = recipe.train.model_dump(exclude={"num_steps"})
    sizes = (model.num_layers, model.embed_dim, model.num_heads, model.num_kv_heads, model.head_dim)
    sizes += (model.mlp_dim, model.padded_vocab_size)
    return (*sizes, model.lora, train, recipe.mesh.model_dump())


def test_recipes_that_fit_a_slice_say_so():
    assert len(PLANNED) >= 20


@pytest.mark.parametrize("path", PLANNED)
def test_a_recipe_opens_with_the_figures_of_its_row(path, root, monkeypatch):
    """The slice, the peak and the time of a step, as in compiled.json for a recipe with the same step."""
    monkeypatch.chdir(root)
    opening = " ".join(
        line.lstrip("# ") for line in Path(path).read_text().splitlines() if line.startswith("#")
    )
    recipe = load_recipe(TrainRecipe, path)
    rows = yaml.safe_load(ROWS.read_text())["rows"]
    (name,) = [
        name
        for name, row in rows.items()
        if "recipe" in row
        and f"{row['topology']}, " in opening
        and step_of(recipe_of(row)) == step_of(recipe)
    ]
    found = json.loads(FILE.read_text())[name]
    peak = re.search(r"The compiler's peak there: ([\d.]+) GiB of 16 a chip", opening)
    step = re.search(r"the planner estimates ([\d.]+) s a step, ([\d.]+) (hours|days)", opening)
    assert peak is not None, opening
    assert step is not None, opening
    assert peak[1] == f"{found['peak_bytes'] / 2**30:.1f}"
    assert step[1] == f"{found['step_seconds']:.2f}"
    hours = found["step_seconds"] * recipe.train.num_steps / 3600
    assert step[2] == f"{hours / (24 if step[3] == 'days' else 1):.1f}"
