"""What README and docs show: commands parse, recipes' keys exist, links lead somewhere."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.fields import class_at, is_named
from configs.load import load_recipe
from configs.parse import parse_yaml
from configs.recipe import PrepareRecipe, TrainRecipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = {"train.py": TrainRecipe, "data.prepare": PrepareRecipe}


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(page, text) of every fenced block of a language."""
    for page in PAGES:
        for found in re.finditer(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S):
            yield page.name, found[1]


def commands() -> list[str]:
    """Every command line shown in a shell block or in back quotes."""
    # A command may go on in the next line.
    shown = [
        line for _, block in blocks("sh") for line in re.sub(r"\\\n\s*", "", block).splitlines()
    ]
    for page in PAGES:
        shown += re.findall(r"`((?:python|make) [^`]+)`", page.read_text())
    shown = [line.split(" #")[0].strip() for line in shown]
    return sorted({line for line in shown if line})


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LECTERN_REALDATA", "/realdata")


def test_commands_are_found():
    assert {"make train", "make test", "python -m data.prepare RECIPE"} <= set(commands())


@pytest.mark.parametrize("line", commands())
def test_a_command_is_one_that_exists(line):
    words = shlex.split(line)
    while re.match(r"[A-Z_]+=", words[0]):  # a variable that the command is given
        words = words[1:]
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], check=True, capture_output=True)
        return
    if words[:2] == ["pip", "install"]:
        extras = {extra for word in words for extra in re.findall(r"\[(\w+)\]$", word)}
        assert extras <= set(
            tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        )
        return
    assert words[0] == "python", line
    module = words[2] if words[1] == "-m" else words[1]
    file = ROOT / (module if module.endswith(".py") else module.replace(".", "/") + ".py")
    program = file.exists() or (file.with_suffix("") / "__main__.py").exists()
    assert program, f"{line}: there is no {file.name}"
    rest = words[3:] if words[1] == "-m" else words[2:]
    recipe = rest[0] if rest else ""
    if recipe == "recipe.yaml":  # the reader's
        rest = rest[1:]
    elif module in RECIPES and recipe.endswith(".yaml"):
        load_recipe(
            RECIPES[module], recipe, [word for word in rest[1:] if not word.startswith("-")]
        )
    for word in rest:
        if word.endswith(".yaml"):
            assert (ROOT / word).exists()


@pytest.mark.parametrize(
    "module", sorted({w for line in commands() for w in re.findall(r"-m (\S+)|(train\.py)", line)})
)
def test_help_shows_the_flags_that_are_used(module):
    name = module[0] or module[1]
    start = ["-m", name] if module[0] else [name]
    help_text = subprocess.run(
        [sys.executable, *start, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    used = {
        flag
        for line in commands()
        if name in line
        # With a runner, what is not ours is Beam's.
        for flag in re.findall(
            "--beam_runner" if "--beam_runner" in line else r"(--[a-z_-]+)", line
        )
    }
    missing = [flag for flag in used if flag != "--help" and flag not in help_text]
    assert not missing


@pytest.mark.parametrize(("page", "text"), list(blocks("yaml")))
def test_keys_of_a_shown_recipe_exist(page, text):
    value = parse_yaml(text, page).value
    # A part of a recipe is of the kind that has its keys.
    cls = PrepareRecipe if value.keys() <= PrepareRecipe.model_fields.keys() else TrainRecipe
    check_keys(cls, value, ())


def check_keys(cls: Any, value: Any, path: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        return
    fields = class_at(cls, path)
    for key, inner in value.items():
        assert is_named(cls, path) or (fields and key in fields.model_fields), ".".join(
            (*path, key)
        )
        check_keys(cls, inner, (*path, key))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fields_named_in_the_text_exist(page):
    rooms = ("train", "optimizer", "mesh", "checkpoint", "eval", "resume", "tracking", "mixture")
    for name in re.findall(rf"`((?:{'|'.join(rooms)})\.[a-z_.]+)[`=:]", page.read_text()):
        if name.endswith(".py"):
            continue
        owner = class_at(TrainRecipe, tuple(name.split(".")[:-1]))
        assert owner is not None, name
        assert name.split(".")[-1] in owner.model_fields, name
