"""Signatures: what is kept of a text so that its near duplicates are found among millions.

A text is the set of its word 3-grams. Its signature is 128 minima of hashes of them (MinHash, by
rensa), and two texts agree in about as many minima as they have 3-grams in common (Jaccard). Texts
that agree in all minima of a *band* are candidates; a layout of bands says how many minima a band
has. Of pairs at the threshold at least 99.5 % share a band: 32 bands of 4 for thresholds from 0.63
up, 42 of 3 below.
"""

import numpy as np

from data.clean.words import mix, shingles

NUM_MINIMA = 128
SEED = 42
FOUND = 0.995
# Minima agree in a share that is off by 0.044 at most in the mean (one standard deviation): a pair
# whose estimate is lower than the threshold by this much is not looked at more closely.
MARGIN = 0.16


def minima_of(hashes: np.ndarray) -> np.ndarray:
    """uint32[NUM_MINIMA]: the signature of a text given as word hashes."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  (it is of Rust)

    tokens = shingles(hashes)
    if not len(tokens):
        return np.full(NUM_MINIMA, 0xFFFFFFFF, np.uint32)
    ends = np.array([0, len(tokens)], np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(tokens, ends, NUM_MINIMA, SEED)
    return np.array(matrix.to_rows()[0], np.uint32)


def band_rows(threshold: float) -> int:
    """Minima in a band, so that pairs at the threshold are found at least at the rate `FOUND`."""
    for rows in (4, 3, 2):
        if 1 - (1 - threshold**rows) ** (NUM_MINIMA // rows) >= FOUND:
            return rows
    raise ValueError(f"threshold: {threshold} is too low for {NUM_MINIMA} minima; use 0.25 or more")


def band_keys(minima: np.ndarray, rows: int) -> np.ndarray:
    """uint64[N, bands]: a key for each band of each signature, `minima` being uint32[N, 128].

    The number of a band is mixed in, so keys of different bands differ.
    """
    bands = minima.shape[1] // rows
    parts = minima[:, : bands * rows].reshape(len(minima), bands, rows).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), parts.shape[:2])
    for row in range(rows):
        keys = mix(keys ^ parts[:, :, row])
    return keys


def agreement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float[N]: the share of minima in which signatures agree, an estimate of Jaccard."""
    return (a == b).mean(axis=-1)
