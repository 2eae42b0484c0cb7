"""Sampling against plain numpy: cuts, penalty, frequencies, and rows that do not see each other."""

import jax.numpy as jnp
import numpy as np
import pytest

from data.generator import Sampling
from model.sampling import Settings, _keep, check, next_tokens, settings_of

V = 50


def rows(*samplings):
    """The settings of several rows."""
    parts = [settings_of(sampling) for sampling in samplings]
    return Settings(*(jnp.stack([getattr(p, n) for p in parts]) for n in Settings._fields))


def drawn(logits, sampling, count):
    """Tokens of `count` consecutive places of one text."""
    settings = rows(*[sampling] * count)
    seen = jnp.zeros((count, V), bool)
    tokens = next_tokens(
        jnp.tile(logits, (count, 1)), settings, seen, jnp.arange(count), jnp.ones(count, bool)
    )
    return np.asarray(tokens)


@pytest.fixture(scope="module")
def logits():
    return jnp.asarray(np.random.default_rng(0).normal(size=V) * 2, jnp.float32)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=0.7, top_k=5), lambda p: np.argsort(-p)[:5]),
        (
            Sampling(temperature=0.7, top_p=0.6),
            lambda p: np.argsort(-p)[: (np.cumsum(np.sort(p)[::-1]) < 0.6).sum() + 1],
        ),
        (Sampling(temperature=0.7, min_p=0.2), lambda p: np.flatnonzero(p >= 0.2 * p.max())),
        (
            Sampling(temperature=0.7, top_k=8, top_p=0.5),  # the share is of what top-k left
            lambda p: np.argsort(-p)[
                : (np.cumsum(np.sort(p)[::-1][:8] / np.sort(p)[::-1][:8].sum()) < 0.5).sum() + 1
            ],
        ),
        (Sampling(temperature=0.7), lambda p: np.arange(V)),
    ],
)
def test_draws_follow_the_distribution_that_the_cuts_leave(logits, sampling, kept):
    p = softmax(np.asarray(logits, np.float64) / sampling.temperature)
    left = np.zeros(V)
    left[kept(p)] = p[kept(p)]
    left /= left.sum()
    n = 4000
    counts = np.bincount(drawn(logits, sampling, n), minlength=V)
    assert counts[left == 0].sum() == 0
    likely = left * n >= 5
    chi = ((counts[likely] - n * left[likely]) ** 2 / (n * left[likely])).sum()
    assert chi < likely.sum() + 5 * np.sqrt(2 * likely.sum())


def test_the_draw_is_of_seed_and_place_alone(logits):
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=2**40 + 7)
    alone = drawn(logits, sampling, 6)
    mates = [Sampling(), Sampling(temperature=2.0, top_k=3, seed=1), sampling]
    seen = jnp.zeros((3, V), bool).at[1].set(True)
    for place in range(6):
        tokens = next_tokens(
            jnp.stack([-logits, logits * 3, logits]),
            rows(*mates),
            seen,
            jnp.array([9, 9, place]),
            jnp.array([True, True, True]),
        )
        assert tokens[2] == alone[place]
    other = drawn(logits, Sampling(temperature=1.0, top_p=0.9, seed=8), 40)
    assert (other != drawn(logits, sampling, 40)).any()


def test_a_seed_of_more_than_32_bits_is_another_seed(logits):
    one, other = (Sampling(temperature=1.0, seed=s) for s in (3, 3 + 2**32))
    assert (drawn(logits, one, 40) != drawn(logits, other, 40)).any()


def test_the_penalty_lowers_what_was_seen():
    logits = jnp.array([[2.0, 1.9, -1.0, -1.1]])
    ones = jnp.ones(1, bool)
    for seen, expected in (([0], 1), ([], 0)):
        mask = jnp.zeros((1, 4), bool).at[0, jnp.array(seen, int)].set(True)
        settings = rows(Sampling(repetition_penalty=1.5))
        assert next_tokens(logits, settings, mask, jnp.zeros(1, int), ones)[0] == expected
    negative = jnp.array([[-1.0, -1.1]])
    settings = rows(Sampling(repetition_penalty=1.5))
    seen = jnp.array([[True, False]])
    assert next_tokens(negative, settings, seen, jnp.zeros(1, int), ones)[0] == 1


def test_ties_at_the_threshold_all_stay():
    logits = jnp.array([[1.0, 3.0, 1.0, 0.0, 2.0]])
    left = _keep(logits, jnp.ones_like(logits), jnp.array([3.0]))
    assert (np.asarray(left[0]) > -1e30).tolist() == [True, True, True, False, True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_k": -1},
        {"top_p": 0.0},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"max_new_tokens": 0},
        {"stop": ("",)},
    ],
)
def test_numbers_outside_their_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        check(Sampling(**wrong))


def test_padded_entries_of_the_vocabulary_are_never_drawn():
    logits = jnp.full((1, V), -jnp.inf).at[0, :3].set(0.0)
    settings = rows(Sampling(temperature=5.0, top_p=0.999))
    seen, on = jnp.zeros((1, V), bool), jnp.ones(1, bool)
    tokens = {int(next_tokens(logits, settings, seen, jnp.array([i]), on)[0]) for i in range(60)}
    assert tokens == {0, 1, 2}
