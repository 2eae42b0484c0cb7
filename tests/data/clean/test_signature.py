"""Signatures: they estimate Jaccard, and bands find what is above the threshold."""

import random

import numpy as np
import pytest

from data.clean.signature import (
    FOUND,
    NUM_MINIMA,
    agreement,
    band_keys,
    band_rows,
    minima_of,
)
from data.clean.words import jaccard, word_hashes


def pairs(number: int, share: float) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = random.Random(share)
    found = []
    for _ in range(number):
        a = [f"w{rng.randrange(5000)}" for _ in range(200)]
        b = [f"new{rng.randrange(999)}" if rng.random() < share else w for w in a]
        found.append((word_hashes(" ".join(a)), word_hashes(" ".join(b))))
    return found


def test_minima_estimate_jaccard():
    errors = []
    for share in (0.0, 0.02, 0.05, 0.1, 0.2):
        errors += [
            agreement(minima_of(a), minima_of(b)) - jaccard(a, b) for a, b in pairs(60, share)
        ]
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 0.05


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.65, 0.8, 0.9])
def test_the_layout_finds_pairs_at_the_threshold(threshold):
    rows = band_rows(threshold)
    assert 1 - (1 - threshold**rows) ** (NUM_MINIMA // rows) >= FOUND
    assert band_rows(0.8) == 4
    # and real pairs just above it are found
    shares = {0.5: 0.11, 0.6: 0.08, 0.65: 0.06, 0.8: 0.03, 0.9: 0.01}
    found = []
    for a, b in pairs(150, shares[threshold]):
        if jaccard(a, b) >= threshold:
            a, b = (band_keys(minima_of(x)[None], rows)[0] for x in (a, b))
            found.append((a == b).any())
    assert len(found) > 30
    assert np.mean(found) >= 0.97


def test_a_threshold_that_no_layout_serves_is_an_error():
    with pytest.raises(ValueError, match="too low"):
        band_rows(0.05)


def test_keys_of_other_bands_differ():
    keys = band_keys(np.zeros((1, NUM_MINIMA), np.uint32), 4)
    assert len(set(keys[0].tolist())) == NUM_MINIMA // 4
