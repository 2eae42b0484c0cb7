"""Strict loading: every mistake is named with its path, file and line; overrides say what they say."""

import copy
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from configs.fields import NAME, walk
from configs.load import RecipeError, load_recipe, recipe_yaml, user_errors
from configs.parse import dump_yaml, parse_yaml
from configs.recipe import PrepareRecipe, TrainRecipe

TRAIN: dict[str, Any] = {
    "run_dir": "runs/x",
    "tokenizer": "tok",
    "model": {
        "preset": "tiny",
        "rope_scaling": {"kind": "linear", "factor": 2.0},
        "lora": {"rank": 4},
    },
    "streams": {"reading": {"path": "a"}, "general": {"path": "b", "weight": 2}},
    "mixture": {"schedule": "constant"},
    "train": {"num_steps": 100, "seq_len": 128, "global_batch_rows": 8, "stop_on_spike": {}},
    "optimizer": {"peak_lr": 1e-4},
    "mesh": {},
    "checkpoint": {},
    "eval": {"streams": {}, "forgetting": {"streams": ["reading"]}, "report": {"safety": {}}},
    "resume": {},
    "tracking": {"wandb": {"project": "p"}},
    "export": {"out": "y"},
}
PREPARE: dict[str, Any] = {
    "out_dir": "prepared/x",
    "train_tokenizer": {"vocab_size": 512},
    "heldout": {},
    "clean": {
        **{key: {} for key in ("normalize", "language", "quality", "personal")},
        **{key: {} for key in ("dedup", "contamination")},
    },
    "generator": {"kind": "engine", "model": "m"},
    "corpora": {
        "articles": {
            "path": "a.jsonl",
            "fields": {"text": {"each": "t"}},
            "chat": {},
            "clean": {key: {} for key in ("normalize", "language", "quality", "personal")},
            "comprehension": {"families": {}, "layout": {}},
            "synthesis": {"filters": {}, "templates": {"modes": {}}},
        }
    },
}
# What is decided over all corpora is no setting of one.
OF_ALL = {("corpora", NAME, "clean", key) for key in ("dedup", "contamination")}


def write(tmp_path: Path, value: Any) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_text(value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False))
    return str(file)


def mappings(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every mapping in a recipe, the recipe itself first."""
    if isinstance(value, dict):
        yield path
        for key, inner in value.items():
            yield from mappings(inner, (*path, key))


def levels(cls: type[BaseModel]) -> set[tuple[str, ...]]:
    """The path of everything in a recipe class that has fields of its own."""
    paths = {field.path for field in walk(cls) if field.nested}
    return {()} | {p for p in paths if not any((*p, NAME) == q for q in paths)}


CASES = [
    (cls, full, path)
    for cls, full in ((TrainRecipe, TRAIN), (PrepareRecipe, PREPARE))
    for path in mappings(full)
]


@pytest.mark.parametrize(("cls", "full"), [(TrainRecipe, TRAIN), (PrepareRecipe, PREPARE)])
def test_the_full_recipes_reach_every_level(cls, full):
    names = {"reading", "general", "articles"}
    reached = {tuple(NAME if key in names else key for key in path) for path in mappings(full)}
    assert reached >= levels(cls) - OF_ALL


@pytest.mark.parametrize(
    ("cls", "full", "path"), CASES, ids=lambda v: ".".join(v) if isinstance(v, tuple) else ""
)
def test_an_unknown_key_at_any_level_is_an_error_with_its_full_path(tmp_path, cls, full, path):
    file = write(tmp_path, full)
    load_recipe(cls, file)
    key = ".".join((*path, "nonesuch"))
    named = path in {
        ("streams",),
        ("corpora",),
    }  # there a new name is a new entry, with fields of its own
    with pytest.raises(RecipeError) as caught:
        load_recipe(cls, file, [f"{key}=1"])
    expected = f"{key}: should be a mapping" if named else f"{key}: unknown; "
    assert str(caught.value).startswith(f"command line: {expected}")


@pytest.mark.parametrize(("cls", "full", "path"), CASES[:3])
def test_the_line_of_an_unknown_key_is_named(tmp_path, cls, full, path):
    changed = copy.deepcopy(full)
    place = changed
    for key in path:
        place = place[key]
    place["nonesuch"] = {"deep": 1}
    file = write(tmp_path, changed)
    line = next(
        i for i, text in enumerate(Path(file).read_text().splitlines(), 1) if "nonesuch" in text
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(cls, file)
    assert f"{file}:{line}: {'.'.join((*path, 'nonesuch'))}: " in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.peek_lr=1", "optimizer.peek_lr: unknown; did you mean peak_lr"),
        ("streams.reading.wieght=2", "streams.reading.wieght: unknown; did you mean weight?"),
        ("train.peak_lr=1", "train.peak_lr: unknown; did you mean optimizer.peak_lr?"),
        ("mixture.zzz=1", "mixture.zzz: unknown; there are schedule"),
        (
            "optimizer.schedule=cosin",
            "'cosin' is not cosine | wsd | constant; did you mean cosine?",
        ),
        ("train.num_steps=ten", "train.num_steps: should be an integer, not 'ten'"),
        ("train.num_steps=1.5", "train.num_steps: should be an integer"),
        ('train.num_steps="7"', "train.num_steps: should be an integer, not '7'"),
        ("train.num_steps=true", "train.num_steps: should be an integer, not True"),
        ("train.num_steps=-1", "train.num_steps: should be greater than or equal to 0, not -1"),
        ("tracking.tensorboard=1", "tracking.tensorboard: should be a boolean, not 1"),
        ("run_dir=7", "run_dir: should be a string, not 7"),
        ("optimizer=3", "optimizer: should be a mapping of fields, not 3"),
        ("run_dir.deep=3", "run_dir.deep: run_dir is 'runs/x', it has no fields"),
        (
            "streams.old=null",
            "streams.old: nothing of that name to take out; there are reading, general",
        ),
        ("streams.a b={path: x}", "streams.a b: a name has letters"),
        ("streams.new.weight=1", "streams.new.path: missing"),
        (
            "streams.reading.weight=[[0, 1], [2, 1]]",
            "streams.reading.weight[1][0]: should be less than or equal to 1",
        ),
        (
            "streams.reading.weight=heavy",
            "streams.reading.weight: should be a number, not 'heavy' or should be a",
        ),
        ("optimizer.peak_lr", "'optimizer.peak_lr' is not key.path=value"),
        ("optimizer..peak_lr=1", "is not key.path=value"),
        ("streams={a: {path: x}, a: {path: y}}", "a: given twice"),
        ("streams={a: [", "streams:1: not YAML"),
        ("tokenizer=!!python/object:os.system x", "YAML tag"),
    ],
)
def test_a_mistake_is_named(tmp_path, override, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe(TrainRecipe, write(tmp_path, TRAIN), [override])
    assert message in str(caught.value)
    assert str(caught.value).startswith("command line: ")


def test_all_mistakes_are_told_at_once(tmp_path):
    file = write(tmp_path, "run_dir: x\nmodel: {preset: tiny}\ntrian: {}\ntrain:\n  num_steps: x\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(TrainRecipe, file)
    assert sorted(str(caught.value).splitlines()) == sorted(
        [
            f"{file}:3: trian: unknown; did you mean train?",
            f"{file}:5: train.num_steps: should be an integer, not 'x'",
            f"{file}:4: train.global_batch_rows: missing",
        ]
    )


def test_overrides(tmp_path):
    recipe = load_recipe(
        TrainRecipe,
        write(tmp_path, TRAIN),
        [
            "streams.reading.weight=3",
            "streams.general=null",
            "streams.extra={path: c}",
            "streams.fourth.path=d",
            "optimizer.peak_lr=2e-5",
            "train.num_steps=1e4",
            "train.global_batch_rows=1_024",
            "tracking.wandb=null",
            "eval.tasks=[a, b]",
            "tracking.profile=[2, 4]",
            "run_dir=runs/a=b",
        ],
    )
    assert list(recipe.streams) == ["reading", "extra", "fourth"]
    assert recipe.streams["reading"].weight == 3
    assert recipe.optimizer.peak_lr == 2e-5
    assert recipe.train.num_steps == 10_000
    assert recipe.train.global_batch_rows == 1024
    assert recipe.tracking.wandb is None
    assert recipe.tracking.profile == (2, 4)
    assert recipe.eval.tasks == ("a", "b")
    assert recipe.run_dir == "runs/a=b"


def test_a_field_that_is_off_can_be_set_below(tmp_path):
    without = {**TRAIN, "export": None, "tracking": None}
    recipe = load_recipe(
        TrainRecipe, write(tmp_path, without), ["export.out=z", "tracking.every_steps=5"]
    )
    assert recipe.export is not None
    assert recipe.export.out == "z"
    assert recipe.tracking.every_steps == 5


def test_the_resolved_recipe_reads_back_equal(tmp_path):
    recipe = load_recipe(
        TrainRecipe, write(tmp_path, TRAIN), ["run_dir='1e4'", "streams.reading.path='no'"]
    )
    again = load_recipe(TrainRecipe, write(tmp_path, recipe_yaml(recipe)))
    assert again == recipe
    assert again.run_dir == "1e4"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1.0e-5", 1e-5),
        ("1e4", 10_000),
        ("1E+2", 100),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("1_000_000", 1_000_000),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("true", True),
        ("null", None),
        ("", None),
        ("0x10", "0x10"),
        ("1.2.3", "1.2.3"),
        ("gs://a/b", "gs://a/b"),
    ],
)
def test_scalars(text, value):
    parsed = parse_yaml(text, "x").value
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "value", ["2e-5", "1e4", "010", "no", "null", "", "true", "~", "1:30", "a: b", "${X}", 1e-8]
)
def test_what_is_written_is_read_back(value, monkeypatch):
    monkeypatch.setenv("X", "${X}")
    parsed = parse_yaml(dump_yaml({"key": value}), "x").value["key"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_environment_variables_and_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_PLACE", "/data")
    monkeypatch.setenv("HOME", "/home/me")
    recipe = load_recipe(
        PrepareRecipe,
        write(tmp_path, PREPARE),
        ["out_dir=~/out", "corpora.articles.path=['${SOME_PLACE}/a', b]"],
    )
    assert recipe.out_dir == "/home/me/out"
    assert recipe.corpora["articles"].path == ("/data/a", "b")
    monkeypatch.delenv("SOME_PLACE")
    file = write(tmp_path, "out_dir: x\ntokenizer: ${SOME_PLACE}/t\n")
    with pytest.raises(
        RecipeError, match=rf"{file}:2: tokenizer: the environment variable SOME_PLACE is not set"
    ):
        load_recipe(PrepareRecipe, file)


def test_an_override_replaces_a_path_whose_variable_is_not_set(tmp_path, monkeypatch):
    monkeypatch.delenv("SOME_PLACE", raising=False)
    file = write(tmp_path, {**TRAIN, "tokenizer": "${SOME_PLACE}/t"})
    assert load_recipe(TrainRecipe, file, ["tokenizer=mine"]).tokenizer == "mine"
    with pytest.raises(RecipeError, match="SOME_PLACE"):
        load_recipe(TrainRecipe, file)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("configs/quikstart.yaml", "no such recipe; did you mean .*configs/quickstart.yaml"),
        ("zzzzzz.yaml", "no such recipe\nrecipes here: .*quickstart.yaml"),
        ("configs", "is a folder, not a recipe"),
    ],
)
def test_a_recipe_that_is_not_there(root, monkeypatch, path, message):
    monkeypatch.chdir(root)
    with pytest.raises(RecipeError, match=message):
        load_recipe(TrainRecipe, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not a text file"),
        (b"- a\n- b\n", "a recipe is a mapping"),
        (b"a: b: c\n", ":1: not YAML: "),
        (b"a: 1\nb: 2\na: 3\n", ":3: a: given twice"),
        (b"? [a]\n: b\n", "a key must be a name"),
        (b"", "run_dir: missing"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, message):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        load_recipe(TrainRecipe, str(file))


def test_user_errors_hide_only_our_own_traceback(capsys):
    with pytest.raises(SystemExit) as left, user_errors():
        raise ValueError("train.num_steps: too few")
    assert left.value.code == 1
    assert capsys.readouterr().err == "error: train.num_steps: too few\n"
    with pytest.raises(SystemExit), user_errors():
        Path("/nonesuch/file").read_text()
    assert "/nonesuch/file" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Invalid literal"), user_errors():
        Fraction("x")  # raised inside a library: not for the user, so it goes on
