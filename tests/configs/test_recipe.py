"""Checks that cross the rooms: each gives one message that begins with the field to change."""

import re

import pytest

from configs.load import RecipeError, load_recipe
from configs.recipe import TrainRecipe

RECIPE = """\
run_dir: runs/x
tokenizer: tok
model: {preset: tiny}
streams:
  a: {path: a}
  b: {path: b}
train: {num_steps: 100, seq_len: 128, global_batch_rows: 8}
"""


@pytest.fixture
def load(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return lambda *overrides: load_recipe(TrainRecipe, str(file), overrides)


def test_the_plain_recipe_is_fine(load):
    assert load().schedule_steps == 100


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.preset=null"], "model: set model.preset"),
        (
            ["eval.streams.prose=[aa]"],
            "eval.streams.prose: no stream 'aa' in streams; did you mean a",
        ),
        (["eval.forgetting.limit=0.1"], "eval.forgetting: nothing to watch"),
        (
            ["eval.streams.prose=[a]", "eval.streams.domain=[a]"],
            "eval.streams: a stands there twice",
        ),
        (["model.preset=tinny"], "model.preset: no preset 'tinny'; did you mean tiny"),
        (["model.revision=main"], "model.revision: "),
        (["tokenizer=null"], "tokenizer: name one"),
        (["train.seq_len=4096"], "train.seq_len: 4096 is longer than model.max_seq_len 2048"),
        (["mesh.tensor=4"], "mesh.tensor: 4 does not divide model.num_kv_heads 6"),
        (
            ["model.preset=llama3_8b", "mesh.tensor=16"],
            "mesh.tensor: 16 does not divide model.num_kv_heads 8",
        ),
        (["mesh.fsdp=0"], "mesh.fsdp: 0"),
        (["mesh.sequence=3"], "mesh.sequence: 3 does not divide train.seq_len 128"),
        (["train.accumulate=3"], "train.global_batch_rows: 8 does not divide by 3"),
        (
            ["mesh.data=2", "mesh.fsdp=4", "train.accumulate=2"],
            "train.global_batch_rows: 8 does not divide by 16",
        ),
        (["optimizer.warmup_steps=101"], "optimizer.warmup_steps: 101"),
        (["optimizer.schedule_steps=50"], "optimizer.schedule_steps: 50"),
        (["optimizer.decay_steps=5"], "optimizer.decay_steps: is for optimizer.schedule wsd"),
        (
            ["optimizer.schedule=wsd", "optimizer.decay_steps=60", "optimizer.warmup_steps=50"],
            "optimizer.decay_steps: 60",
        ),
        (["optimizer.end_lr=1"], "optimizer.end_lr: 1.0 is above peak_lr"),
        (["optimizer.warmup_from=1"], "optimizer.warmup_from: 1.0 is above peak_lr"),
        (["tracking.profile=[5, 2]"], "tracking.profile: [5, 2]"),
        (["streams={}"], "streams: name at least one"),
        (
            ["streams.a.weight=[[0, 1], [1, 2]]"],
            "streams.a.weight: a list of points needs mixture.schedule piecewise",
        ),
        (
            ["mixture.schedule=piecewise", "streams.a.weight=[[0.5, 1], [0.1, 2]]"],
            "streams.a.weight: progress must rise",
        ),
        (["streams.a.weight=0", "streams.b.weight=0"], "streams: every weight is 0 at progress 0"),
        (
            [
                "mixture.schedule=piecewise",
                "streams.a.weight=[[0.2, 0], [1, 1]]",
                "streams.b.weight=0",
            ],
            "streams: every weight is 0 at progress 0",
        ),
        (["streams.a.priority=2"], "streams.a.priority: needs mixture.schedule priority"),
        (["streams.a.epochs=2"], "streams.a.epochs: needs mixture.schedule priority"),
        (["mixture.schedule=priority", "streams.a.priority=2"], "streams.b.priority: missing"),
        (
            [
                "mixture.schedule=priority",
                "streams.a={path: a, priority: 2, weight: 3}",
                "streams.b.priority=1",
            ],
            "streams.a.weight: mixture.schedule priority has no weights",
        ),
        (["export.out=runs/x/"], "export.out: runs/x/ is the run_dir"),
        (["export={out: y, max_shard_size: 5 GB}"], "export.max_shard_size: "),
    ],
)
def test_a_cross_field_mistake_names_its_field(load, overrides, message):
    with pytest.raises(RecipeError) as caught:
        load(*overrides)
    assert re.search(rf": {re.escape(message)}", str(caught.value)), str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.num_steps=0", "streams={}", "tokenizer=null"],
        ["mixture.schedule=piecewise", "streams.a.weight=[[0, 1], [0.8, 1], [1, 0]]"],
        [
            "mixture.schedule=priority",
            "streams.a.priority=4",
            "streams.b={path: b, priority: 1, epochs: 2}",
        ],
        ["optimizer.schedule=wsd", "optimizer.warmup_steps=20", "optimizer.decay_steps=80"],
        ["optimizer.schedule_steps=50", "optimizer.end_lr=1e-6"],
        ["model.preset=llama2_70b", "mesh.tensor=8", "mesh.fsdp=4"],
        [
            "model={embed_dim: 8, mlp_dim: 8, num_layers: 1, num_heads: 2, num_kv_heads: 1, head_dim: 4}"
        ],
    ],
)
def test_what_is_possible_is_allowed(load, overrides):
    load(*overrides)
