"""Schedules at the points that matter."""

import numpy as np
import pytest

from training.config import OptimizerConfig
from training.schedule import learning_rate


def rates(num_steps, **config):
    schedule = learning_rate(OptimizerConfig(**config), num_steps)
    return np.array([float(schedule(i)) for i in range(num_steps)])


def test_cosine_rises_then_falls_to_the_end():
    r = rates(100, peak_lr=1.0, end_lr=0.1, warmup_steps=10)
    np.testing.assert_allclose(r[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert r.argmax() in (9, 10)
    progress = np.arange(90) / 90
    np.testing.assert_allclose(r[10:], 0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2, rtol=1e-5)


def test_rewarming_begins_where_the_base_ended():
    r = rates(50, peak_lr=1.0, warmup_from=0.2, warmup_steps=4, schedule="constant")
    np.testing.assert_allclose(r[:6], [0.4, 0.6, 0.8, 1.0, 1.0, 1.0], rtol=1e-6)


def test_wsd_holds_and_then_decays_linearly():
    r = rates(100, peak_lr=1.0, warmup_steps=10, schedule="wsd", decay_steps=20)
    assert np.all(r[9:80] == 1.0)
    np.testing.assert_allclose(r[80:], 1 - np.arange(20) / 20, rtol=1e-5, atol=1e-7)


def test_the_schedule_may_reach_past_the_run():
    """HuatuoGPT-II: cosine over 1.35 epochs of a one-epoch run ends at a sixth of the peak."""
    r = rates(100, peak_lr=1.0, schedule_steps=135)
    assert r[-1] == pytest.approx(0.16, abs=0.01)


def test_warmup_longer_than_the_schedule_is_refused():
    with pytest.raises(ValueError, match=r"optimizer\.warmup_steps: 20"):
        learning_rate(OptimizerConfig(warmup_steps=20), 10)


def test_a_single_warmup_step():
    assert rates(3, peak_lr=1.0, warmup_steps=1, schedule="constant").tolist() == [1.0, 1.0, 1.0]
