"""Metrics are read one step behind, and a run that has gone wrong is stopped."""

import numpy as np
import pytest

from training.config import SpikeConfig
from training.steps import good_steps
from training.watch import DivergedError, Watch, check_finite, distrust


def metrics(loss, supervised=(3, 1), tokens=(4, 2)):
    supervised, tokens = np.array(supervised), np.array(tokens)
    return {
        "loss": np.float32(loss),
        "grad_norm": np.float32(loss / 10),
        "tokens": tokens.sum(),
        "supervised": supervised.sum(),
        "stream_loss": loss * supervised,
        "stream_supervised": supervised,
        "stream_tokens": tokens,
    }


def watch(every=1, last_step=100, spike=None):
    windows = []
    emit = lambda step, values, steps: windows.append((step, values, steps))  # noqa: E731
    return Watch(["a", "b"], every=every, last_step=last_step, emit=emit, spike=spike), windows


def test_a_step_is_read_when_the_next_one_is_pushed():
    w, windows = watch()
    w.push(1, metrics(2.0))
    assert not windows
    w.push(2, metrics(4.0))
    assert [(step, values["loss"]) for step, values, _ in windows] == [(1, 2.0)]
    w.drain()
    assert [step for step, *_ in windows] == [1, 2]


def test_windows_weigh_by_supervised_tokens_and_end_at_multiples():
    w, windows = watch(every=2, last_step=5)
    losses = {
        1: (1.0, (3, 1)),
        2: (5.0, (1, 0)),
        3: (2.0, (1, 1)),
        4: (2.0, (1, 1)),
        5: (7.0, (0, 2)),
    }
    for step, (loss, supervised) in losses.items():
        w.push(step, metrics(loss, supervised))
    w.drain()
    assert [(step, steps) for step, _, steps in windows] == [(2, 2), (4, 2), (5, 1)]
    first = windows[0][1]
    assert first["loss"] == pytest.approx((1.0 * 4 + 5.0 * 1) / 5)
    assert first["loss/a"] == pytest.approx((1.0 * 3 + 5.0) / 4)
    assert first["share/a"] == pytest.approx(4 / 6)
    assert first["tokens"] == 12
    assert "loss/a" not in windows[2][1], "no supervised token, no loss"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(bad):
    w, _ = watch()
    w.push(1, metrics(1.0))
    w.push(2, metrics(bad))
    with pytest.raises(DivergedError, match=r"step 2: loss (nan|inf).*optimizer.peak_lr"):
        w.drain()


def test_a_sustained_spike_stops_the_run_and_a_single_one_does_not():
    w, _ = watch(spike=SpikeConfig(factor=1.5, window=4))
    losses = [2.0] * 6 + [9.0] + [2.0] * 6
    for step, loss in enumerate(losses, 1):
        w.push(step, metrics(loss))
    for step in (14, 15):
        w.push(step, metrics(9.0))
    with pytest.raises(DivergedError, match=r"step 15: the median .* last 4 steps is 5.500"):
        w.drain()


def test_held_out_numbers_that_are_not_finite_stop_the_run():
    check_finite(7, {"eval/a/loss": 2.0})
    with pytest.raises(DivergedError, match=r"step 7: eval/b/loss nan\. .*not saved") as caught:
        check_finite(7, {"eval/a/loss": 2.0, "eval/b/loss": float("nan")})
    assert caught.value.bad_state == 7


def test_only_the_checkpoint_of_the_bad_state_is_distrusted(tmp_path):
    for step in (0, 3, 5):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    w, _ = watch()
    w.push(6, metrics(float("nan")))
    with pytest.raises(DivergedError) as caught:
        w.drain()
    message = distrust(str(tmp_path), caught.value)
    assert "checkpoint of step 5" in message
    assert "goes on from step 3" in message
    assert good_steps(str(tmp_path)) == [0, 3]
    for error in (DivergedError("a", 4), DivergedError("a", 0), DivergedError("a")):
        assert distrust(str(tmp_path), error) == "a"  # not saved; given weights; not known
    assert good_steps(str(tmp_path)) == [0, 3]
