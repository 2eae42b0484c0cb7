"""The forgetting alarm: its interval, its grace, what survives a restart, and a run that it stops."""

import json

import numpy as np
import pytest

import train
from evaluation.config import ForgettingConfig
from evaluation.forgetting import NAME, ForgettingAlarm, paired_change
from evaluation.scoring import HeldOut


def held_out(nats, sizes=None):
    sizes = np.full(len(nats), 100) if sizes is None else sizes
    return HeldOut(float(nats.sum()), len(nats), int(sizes.sum()), nats, sizes)


@pytest.fixture
def rows():
    """Nats of 200 rows, some ten times as hard as others."""
    return np.random.default_rng(0).lognormal(4, 0.8, 200)


def test_pairing_tells_a_small_change_among_very_different_rows(rows):
    """A rise of 3 % is certain when rows are compared with themselves, and lost in their spread when not."""
    now = rows * (1.03 + np.random.default_rng(1).normal(0, 0.02, 200))
    change, low, high = paired_change(now, rows)
    assert change == pytest.approx(now.sum() / rows.sum() - 1)
    assert 0.02 < low < change < high < 0.04
    apart = held_out(now).interval(), held_out(rows).interval()
    assert apart[0][0] < apart[1][1], "the intervals of the two by themselves overlap"


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, inside = np.random.default_rng(2), 0
    for _ in range(200):
        before = rng.lognormal(4, 0.5, 80)
        now = before * 1.02 + rng.normal(0, 5, 80)
        _, low, high = paired_change(now, before, draws=400)
        inside += low <= 0.02 <= high
    assert 178 <= inside <= 199  # 95 % of 200, less the bootstrap's known optimism


def test_rows_without_text_do_not_count(rows):
    padded = np.concatenate([rows, np.zeros(56)])
    assert paired_change(1.1 * padded, padded)[0] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no held-out row"):
        paired_change(np.zeros(4), np.zeros(4))


def test_too_few_rows_raise_no_alarm_and_that_is_said(rows, tmp_path):
    alarm = ForgettingAlarm(str(tmp_path), ForgettingConfig(streams=("prose",)), after_steps=0)
    alarm.look(0, {"prose": held_out(rows[:5])})
    findings, silent = alarm.look(20, {"prose": held_out(rows[:5] * 1.5)})
    assert not findings
    assert "5 held-out rows are too few" in silent["prose"]


def test_an_alarm_needs_the_whole_interval_above_the_limit_and_the_grace_over(rows, tmp_path):
    config = ForgettingConfig(streams=("prose",), limit=0.02)
    alarm = ForgettingAlarm(str(tmp_path), config, after_steps=10)
    assert alarm.look(0, {"prose": held_out(rows)}) == ([], {})
    noise = np.random.default_rng(3).normal(0, 1, 200)
    loud = held_out(rows * 1.05)
    unsure = held_out(rows * (1.021 + 0.2 * noise))
    assert not alarm.alarms(alarm.look(10, {"prose": loud})[0]), "within the grace"
    assert not alarm.alarms(alarm.look(20, {"prose": unsure})[0]), "may be below the limit"
    assert not alarm.alarms(alarm.look(20, {"prose": held_out(rows * 1.019)})[0])
    (found,) = alarm.alarms(alarm.look(20, {"prose": loud})[0])
    assert found.change == pytest.approx(0.05)
    assert "prose +5.00 %" in alarm.message([found])


def test_step_0_and_the_last_verdict_survive_a_restart(rows, tmp_path):
    config = ForgettingConfig(streams=("prose",))
    alarm = ForgettingAlarm(str(tmp_path), config, after_steps=0)
    alarm.look(0, {"prose": held_out(rows)})
    alarm.look(5, {"prose": held_out(rows * 1.1)})

    again = ForgettingAlarm(str(tmp_path), config, after_steps=0)
    assert again.standing(5)
    assert not again.standing(4)
    patient = ForgettingAlarm(str(tmp_path), ForgettingConfig(limit=0.2), after_steps=0)
    assert not patient.standing(5), "a higher limit lets the run go on"
    (found,), _ = again.look(6, {"prose": held_out(rows * 1.01)})
    assert found.change == pytest.approx(0.01)

    other = ForgettingAlarm(str(tmp_path / "next"), config, after_steps=0, before=str(tmp_path))
    (found,), _ = other.look(7, {"prose": held_out(rows * 1.01)})
    assert found.change == pytest.approx(0.01), (
        "a run that goes on from another compares with its step 0"
    )


def test_what_cannot_be_compared_is_said(rows, tmp_path):
    alarm = ForgettingAlarm(str(tmp_path), ForgettingConfig(), after_steps=0)
    alarm.look(0, {"prose": held_out(rows)})
    found, silent = alarm.look(5, {"prose": held_out(rows[:100]), "instructions": held_out(rows)})
    assert not found
    assert "not those of step 0" in silent["prose"]
    assert "not measured at step 0" in silent["instructions"]


@pytest.mark.slow
def test_a_run_that_forgets_is_stopped_saved_and_not_started_again(
    sample_streams, tmp_path, capsys
):
    """A rate that ruins random weights: bits per byte rise far above those of step 0."""
    run = tmp_path / "run"
    whole = {
        "run_dir": str(run),
        "tokenizer": str(sample_streams / "tokenizer"),
        "model": {"preset": "tiny", "num_layers": 1, "embed_dim": 48, "mlp_dim": 64},
        "streams": {
            name: {"path": str(sample_streams / name)} for name in ("biomedicine", "instructions")
        },
        "train": {
            "num_steps": 4,
            "seq_len": 128,
            "global_batch_rows": 8,
            "compute_dtype": "float32",
        },
        "optimizer": {"peak_lr": 0.3, "schedule": "constant"},
        "eval": {
            "every_steps": 2,
            "streams": {"domain": ["biomedicine"], "instructions": ["instructions"]},
            "forgetting": {"action": "stop"},
        },
        "tracking": {"tensorboard": False},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(whole))

    def refused(*overrides):
        with pytest.raises(SystemExit) as error:
            train.main([str(recipe), *overrides])
        assert error.value.code == 1
        return capsys.readouterr().err

    message = refused()
    assert "step 2: the run forgets" in message
    assert "instructions +" in message
    assert (run / "checkpoints" / "2").exists()
    kept = json.loads((run / NAME).read_text())
    assert list(kept["streams"]) == ["instructions"], "the domain is not watched"

    steps = len((run / "metrics.jsonl").read_text().splitlines())
    assert "step 2: the run forgets" in refused()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert not [line for line in lines[steps:] if "loss" in line], "not a step was taken"

    assert train.main([str(recipe), "eval.forgetting.action=warn"]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    alarms = [line for line in lines if line.get("event") == "forgetting"]
    assert [line["step"] for line in alarms] == [2, 4]
    assert json.loads((run / NAME).read_text())["streams"] == kept["streams"]
    assert any("forgetting/instructions/low" in line for line in lines)
    page = (run / "report.html").read_text()
    assert "Forgetting: change in bits per byte" in page
    assert "FORGETTING: 2 alarm(s), the last at step 4" in capsys.readouterr().out
