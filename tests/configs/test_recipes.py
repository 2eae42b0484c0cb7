"""Every recipe in configs/ loads, and opens by saying what it is."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import load_recipe, recipe_yaml
from configs.parse import parse_yaml
from configs.recipe import PrepareRecipe, TrainRecipe
from data.synthesis.pages import PagesConfig
from data.synthesis.proof import ProofConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = sorted(str(path.relative_to(CONFIGS.parent)) for path in CONFIGS.rglob("*.yaml"))


@pytest.fixture(autouse=True)
def at_the_root(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("LECTERN_REALDATA", "/realdata")


# What a recipe of each kind has, and no other: the others are training recipes.
KINDS = {"corpora": PrepareRecipe, "commands": ProofConfig, "pages": PagesConfig}


def load(path: str) -> Any:
    keys = parse_yaml(Path(path).read_text(), path).value
    kinds = [kind for key, kind in KINDS.items() if key in keys]
    return load_recipe(kinds[0] if kinds else TrainRecipe, path)


def test_there_are_recipes():
    assert {"configs/quickstart.yaml", "configs/realdata.yaml"} <= set(RECIPES)


@pytest.mark.parametrize("path", RECIPES)
def test_a_recipe_loads_and_reads_back(path, tmp_path):
    recipe = load(path)
    written = tmp_path / "recipe.yaml"
    written.write_text(recipe_yaml(recipe))
    assert load_recipe(type(recipe), str(written)) == recipe


@pytest.mark.parametrize("path", RECIPES)
def test_a_recipe_opens_with_what_where_how_long_and_what_to_expect(path):
    opening = []
    for line in Path(path).read_text().splitlines():
        if not line.startswith("#"):
            break
        opening.append(line)
    text = "\n".join(opening)
    for part in (
        "Where: ",
        "How long: ",
        "Expect: ",
        f" {path}" if "quickstart.yaml" not in path else "make train",
    ):
        assert part in text


@pytest.mark.parametrize("path", RECIPES)
def test_a_training_recipe_uses_what_its_preparation_makes(path):
    recipe = load(path)
    if not isinstance(recipe, TrainRecipe) or recipe.prepare is None:
        pytest.skip("prepares nothing")
    made = load_recipe(PrepareRecipe, recipe.prepare)
    assert recipe.train.seq_len == made.seq_len
    assert recipe.tokenizer in (made.tokenizer, f"{made.out_dir}/tokenizer")
    streams = {f"{made.out_dir}/{name}" for name in made.corpora}
    assert {stream.path for stream in recipe.streams.values()} == streams
