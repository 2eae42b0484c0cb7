"""What may change under a run, and how the dealing goes on when something did."""

import pytest

from training.resume import check_unchanged, deal_plan, differences

RECIPE = {
    "run_dir": "runs/a",
    "model": {"preset": "tiny", "init_from": None},
    "tokenizer": "t.model",
    "streams": {"reading": {"path": "p/reading", "weight": 1.0}},
    "train": {"num_steps": 10, "global_batch_rows": 8, "z_loss": 0.0},
    "optimizer": {"peak_lr": 1e-3},
    "mesh": {"fsdp": -1},
}
DATA = {"reading": {"fingerprint": "f", "num_rows": 5}}
DEAL = {"start_row": 0, "start_counts": {"reading": 0}, "total_rows": 80}
META = {
    "step": 4,
    "rows": 32,
    "recipe": RECIPE,
    "data": DATA,
    "counts": {"reading": 32},
    "deal": DEAL,
}


def changed(**parts):
    return {
        k: {**v, **parts.get(k, {})} if isinstance(v, dict) else parts.get(k, v)
        for k, v in RECIPE.items()
    }


def test_free_things_may_change():
    recipe = changed(
        run_dir="runs/b",
        tokenizer="moved/t.model",
        streams={"reading": {"path": "moved/reading", "weight": 1.0}},
        train={"global_batch_rows": 16},
        mesh={"fsdp": 4},
    )
    assert differences(META, recipe, DATA) == []


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"optimizer": {"peak_lr": 2e-3}}, "optimizer.peak_lr: 0.001 -> 0.002"),
        ({"train": {"num_steps": 20}}, "train.num_steps: 10 -> 20"),
        ({"train": {"z_loss": 0.1}}, "train.z_loss: 0.0 -> 0.1"),
        ({"model": {"preset": "llama3_8b"}}, "model.preset: tiny -> llama3_8b"),
        (
            {"streams": {"reading": {"path": "p/reading", "weight": 2.0}}},
            "streams.reading.weight: 1.0 -> 2.0",
        ),
        ({"streams": {"more": {"path": "q", "weight": 1.0}}}, "streams.more.weight: None -> 1.0"),
    ],
)
def test_what_decides_the_result_may_not(parts, line):
    with pytest.raises(ValueError) as error:
        check_unchanged(META, changed(**parts), DATA, accept=False)
    assert line in str(error.value)
    assert "resume.accept_changes=true" in str(error.value)
    assert line in check_unchanged(META, changed(**parts), DATA, accept=True)


def test_initial_weights_bind_nothing_but_the_model():
    meta = META | {"deal": None}
    assert check_unchanged(meta, changed(train={"num_steps": 99}), DATA, accept=False) == []
    with pytest.raises(ValueError, match="model.init_from: None -> other"):
        check_unchanged(meta, changed(model={"init_from": "other"}), DATA, accept=False)
    assert check_unchanged(None, RECIPE, DATA, accept=False) == []


def test_other_contents_behind_the_same_path_are_a_change():
    data = {"reading": {"fingerprint": "g", "num_rows": 5}}
    assert differences(META, RECIPE, data) == ["data.reading.fingerprint: f -> g"]


def test_the_deal_stays_the_same_until_the_plan_changes():
    meta = META
    assert deal_plan(None, 80, ["reading"], []) == DEAL
    assert deal_plan(meta, 80, ["reading"], []) == DEAL
    moved = {"start_row": 32, "start_counts": {"reading": 32, "new": 0}, "total_rows": 120}
    assert deal_plan(meta, 120, ["reading", "new"], ["streams.new"]) == moved
    assert deal_plan(meta, 80, ["reading"], ["optimizer.peak_lr"])["start_row"] == 32
