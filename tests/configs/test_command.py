"""The command line of every entry point."""

import json
import os
import subprocess
import sys

import pytest

from configs.fields import NAME, help_tree, walk
from configs.load import Flag, command
from configs.recipe import PrepareRecipe, TrainRecipe

RECIPE = """\
run_dir: runs/x
tokenizer: tok
model: {preset: tiny}
streams: {a: {path: a}}
train: {num_steps: 100, seq_len: 128, global_batch_rows: 8}
"""
FLAGS = [Flag("json", "write figures there", "FILE"), Flag("all", "everything")]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return str(path)


def test_recipe_overrides_and_flags(file):
    recipe, options = command(
        TrainRecipe,
        [file, "seed=3", "--dry-run", "--json", "out.json", "train.num_steps=5", "--all"],
        "Trains.",
        flags=FLAGS,
    )
    assert (recipe.seed, recipe.train.num_steps) == (3, 5)
    assert options.dry_run
    assert options.recipe_path == file
    assert options.flags == {"json": "out.json", "all": True}
    _, options = command(TrainRecipe, [file, "--json=x=y"], "Trains.", flags=FLAGS)
    assert not options.dry_run
    assert options.flags == {"json": "x=y", "all": None}


def test_arguments_before_the_recipe(file):
    _, options = command(TrainRecipe, ["runs/a", file, "seed=1"], "Measures.", arguments=["MODEL"])
    assert options.arguments == ("runs/a",)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "RECIPE: missing\nusage: COMMAND RECIPE"),
        (["seed=1"], "RECIPE: missing"),
        (["RECIPE", "--dry-rum"], "--dry-rum: unknown; did you mean dry-run?"),
        (["RECIPE", "--dry-run=yes"], "--dry-run: takes no value, got 'yes'"),
        (["RECIPE", "--json"], "--json: needs a value: --json=FILE"),
        (["RECIPE", "sed=1"], "command line: sed: unknown; did you mean seed?"),
        (["RECIPE", "other.yaml"], "'other.yaml' is not key.path=value"),
    ],
)
def test_a_mistake_is_one_message_and_status_1(file, argv, message, capsys):
    with pytest.raises(SystemExit) as left:
        command(
            TrainRecipe,
            [file if word == "RECIPE" else word for word in argv],
            "Trains.",
            flags=FLAGS,
        )
    assert left.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err


@pytest.mark.parametrize("cls", [TrainRecipe, PrepareRecipe])
def test_help_shows_every_field_with_type_default_and_meaning(cls, capsys):
    with pytest.raises(SystemExit) as left:
        command(cls, ["--help"], "What it does.", flags=FLAGS)
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("What it does.\n")
    assert "--json=FILE" in shown
    lines = iter(help_tree(cls, 500).splitlines())
    for field in walk(cls):  # in order, so that equal names at other levels do not stand in
        indent = "  " * (len(field.path) - 1)
        head = f"{indent}{field.path[-1]}:" + (f" {field.default}" if field.default else "")
        line = next((text for text in lines if text.startswith(head)), None)
        assert line is not None, field.path
        if len(head) < 34:
            assert field.kind in line
            assert field.meaning in line
        assert field.nested or field.kind


def test_help_tells_types_bounds_and_defaults():
    fields = {".".join(f.path): f for f in walk(TrainRecipe)}
    assert fields["optimizer.peak_lr"].kind == "number > 0"
    assert fields["optimizer.beta1"].kind == "number >= 0 and < 1"
    assert fields["optimizer.schedule"].kind == "cosine | wsd | constant"
    assert fields["optimizer.schedule"].default == "cosine"
    assert fields["train.num_steps"].default == "(required)"
    assert fields["tracking.profile"].kind == "[integer, integer]"
    assert f"streams.{NAME}.path" in fields
    assert max(map(len, help_tree(TrainRecipe, 100).splitlines())) <= 100


@pytest.mark.parametrize("cls", [TrainRecipe, PrepareRecipe])
def test_schema(cls, capsys, root):
    with pytest.raises(SystemExit) as left:
        command(cls, ["--schema"], "Trains.")
    assert left.value.code == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == set(cls.model_fields)
    assert schema["additionalProperties"] is False


def test_the_schema_accepts_what_the_loader_accepts(root):
    jsonschema = pytest.importorskip("jsonschema")
    from configs.parse import parse_yaml

    validator = jsonschema.Draft202012Validator(TrainRecipe.model_json_schema())
    value = parse_yaml((root / "configs/quickstart.yaml").read_text(), "x").value
    validator.validate(value)
    value["optimizer"]["peek_lr"] = 1
    assert not validator.is_valid(value)


def test_schema_command(root):
    done = subprocess.run(
        [sys.executable, "-m", "configs.schema", "prepare"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == PrepareRecipe.model_json_schema()
    done = subprocess.run(
        [sys.executable, "-m", "configs.schema"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: name one of train, prepare")


def test_help_needs_no_jax(root):
    code = (
        "import sys\nfrom configs.load import command\nfrom configs.recipe import TrainRecipe\n"
        "try: command(TrainRecipe, ['--help'], 'x')\n"
        "except SystemExit: print('jax' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert done.stdout.splitlines()[-1] == "False False"
