"""Bits per byte and its intervals, against plain statements."""

import math

import numpy as np
import pytest

from evaluation.scoring import HeldOut, bits_per_byte, score_heldout


def test_a_uniform_model_over_bytes_has_eight_bits():
    assert bits_per_byte(100 * math.log(256), 100) == pytest.approx(8.0)


def test_sums_go_over_all_batches():
    rows = {
        "first": {"row_nll": np.array([1.0, 2.0]), "row_bytes": np.array([4, 0]), "tokens": 3},
        "second": {"row_nll": np.array([3.0, 0.0]), "row_bytes": np.array([5, 1]), "tokens": 2},
    }
    score = score_heldout(lambda params, batch, sizes: rows[batch], {}, rows, np.zeros(1))
    assert (score.nats, score.tokens, score.num_bytes) == (6.0, 5, 10)
    assert score.loss == pytest.approx(6 / 5)
    assert score.bits_per_byte == pytest.approx(6 / math.log(2) / 10)


def test_no_held_out_text_is_no_score():
    score = score_heldout(lambda *_: {}, {}, [], np.zeros(1))
    assert score.tokens == 0


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, inside = 1.5 / math.log(2), 0
    for _ in range(200):
        sizes = rng.integers(50, 150, 60)
        nats = sizes * 1.5 + rng.normal(0, 30, 60)
        low, high = HeldOut(nats.sum(), 1, int(sizes.sum()), nats, sizes).interval(draws=300)
        inside += low <= truth <= high
    assert 175 <= inside <= 199  # 95 % of 200, less the bootstrap's known optimism


def test_rows_that_fill_up_a_batch_do_not_count_and_few_rows_have_no_interval():
    nats = np.array([150.0, 160.0, 140.0, 155.0, 145.0, 151.0, 149.0, 152.0])
    sizes = np.full(8, 100)
    padded = HeldOut(0.0, 1, 800, np.append(nats, np.zeros(24)), np.append(sizes, np.zeros(24)))
    assert padded.interval() == HeldOut(0.0, 1, 800, nats, sizes).interval()
    ends = padded.interval()
    assert ends is not None
    assert ends[0] > 140 / math.log(2) / 100, "no draw is of empty rows alone"
    assert HeldOut(0.0, 1, 700, nats[:7], sizes[:7]).interval() is None
