"""Which room may import which. Imports at the top of a file count; a `main()` may import what it needs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("configs", "data", "model", "training", "evaluation", "tpu")
# What the files of a room may import of ours besides their own room.
MAY = {
    "configs": {f"{room}.config" for room in ROOMS} | {"model.presets"},
    "data": set(),
    "model": {
        "data.tokenizer",
        "data.sentencepiece_proto",
        "data.chat",
        "data.document",
        "data.generator",
        "data.literal",
    },
    "training": {
        "model",
        "tpu.mesh",
    },  # the names of the mesh's axes, and how parameters lie on them
    "evaluation": {
        "model",
        "training",
        "data.tokenizer",
        "data.chat",
        "data.document",
        "data.generator",
        "data.benchmarks",
        "tpu.mesh",
    },
    "tpu": set(),
}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
NEEDS_JAX = {"data/loader.py"}
HEAVY = {
    "transformers",
    "datasets",
    "tensorflow_datasets",
    "matplotlib",
    "torch",
    "tensorflow",
    "wandb",
}
CORPUS = {"apache_beam", "sentencex", "rensa", "py3langid"}
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def top_level(tree: ast.Module) -> Iterator[str]:
    """Modules imported at the top of a file, those for type checkers left out."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def everywhere(tree: ast.Module) -> Iterator[str]:
    """Every module imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_from_the_rooms_that_its_room_may(path):
    room = name_of(path).split("/")[0]
    imports = list(top_level(ast.parse(path.read_text())))
    ours = [module for module in imports if module.split(".")[0] in ROOMS]
    wrong = [module for module in ours if not within(module, MAY[room] | {room})]
    assert not wrong, f"{name_of(path)} may not import {wrong} at its top"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_heavy_libraries_are_imported_late(path):
    imports = {module.split(".")[0] for module in top_level(ast.parse(path.read_text()))}
    assert not imports & HEAVY


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p).startswith("data/")], ids=name_of)
def test_data_is_free_of_jax_but_for_the_loader(path):
    imports = {module.split(".")[0] for module in everywhere(ast.parse(path.read_text()))}
    assert name_of(path) in NEEDS_JAX or not imports & JAX


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p).startswith("model/")], ids=name_of)
def test_the_model_needs_no_corpus_library(path):
    assert not {module.split(".")[0] for module in everywhere(ast.parse(path.read_text()))} & CORPUS


def test_importing_starts_nothing():
    """Every module imports without a device being asked for and without the heavy libraries."""
    modules = [name_of(path)[:-3].replace("/", ".").removesuffix(".__init__") for path in FILES]
    code = f"""
import importlib, sys
import jax
from jax._src import xla_bridge
for name in {modules!r}:
    importlib.import_module(name)
assert not xla_bridge.backends_are_initialized(), "a device was asked for"
print(sorted(set(sys.modules) & {HEAVY!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_corpus_side_runs_without_jax():
    """What prepares data imports in a process where JAX is not to be had."""
    modules = [
        name_of(p)[:-3].replace("/", ".").removesuffix(".__init__")
        for p in FILES
        if name_of(p).startswith("data/") and name_of(p) not in NEEDS_JAX
    ]
    code = f"""
import importlib, sys
for name in {sorted(JAX)!r}:
    sys.modules[name] = None
for name in {modules!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
