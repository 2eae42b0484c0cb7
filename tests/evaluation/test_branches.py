"""Trees hold every shared token once, and say exactly who sees whom."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evaluation.branches import Path, families, grow, pack, rung, shared


def path(owner, context, continuation):
    return Path(owner, np.array([*context, *continuation], np.int32), len(context))


token = st.integers(1, 3)
asked = st.lists(
    st.tuples(st.lists(token, min_size=1, max_size=6), st.lists(token, min_size=1, max_size=4)),
    min_size=1,
    max_size=8,
)


def ancestors(tree, node):
    """What a node sees, by the rule of the rows."""
    return [j for j in range(node + 1) if node < tree.exits[j]]


@given(asked, st.integers(0, 3))
def test_a_scored_token_sees_its_own_path_and_nothing_else(pairs, skip):
    prefix = [3, 1, 2][:skip]
    paths = [path((i, 0), [*prefix, *context], c) for i, (context, c) in enumerate(pairs)]
    tree = grow(paths, skip)
    found = {}
    for k, owner in enumerate(tree.owners):
        span = slice(tree.bounds[k], tree.bounds[k + 1])
        found[owner] = (tree.sources[span], tree.targets[span])
    assert len(found) == len(paths)
    for one in paths:
        sources, targets = found[one.owner]
        assert targets.tolist() == one.tokens[one.start :].tolist()
        for step, source in enumerate(sources):
            line = ancestors(tree, source)
            assert tree.tokens[line].tolist() == one.tokens[skip : one.start + step].tolist()
            assert tree.depths[line].tolist() == list(range(skip, one.start + step))


@given(asked)
def test_no_two_tokens_of_a_tree_have_the_same_past(pairs):
    tree = grow([path((i, 0), context, c) for i, (context, c) in enumerate(pairs)])
    pasts = {tuple(tree.tokens[ancestors(tree, node)]) for node in range(len(tree))}
    assert len(pasts) == len(tree)


def test_one_token_options_take_no_room():
    tree = grow([path((0, i), [5, 6, 7], [i + 1]) for i in range(13)])
    assert len(tree) == 3
    assert tree.sources.tolist() == [2] * 13


def test_candidates_that_change_the_prompt_are_read_together():
    base = list(range(1, 30))
    groups = [[path((i, 0), [*base, 40 + i, 50], [9, 9])] for i in range(4)]
    (family,) = families(groups, most=200)
    assert len(grow(family)) == 29 + 4 * 3
    other = [[path((9, 0), list(range(60, 90)), [1])]]
    assert [len(f) for f in families(groups + other, most=200)] == [4, 1]
    assert [len(f) for f in families(groups, most=40)] == [2, 2]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=40))
def test_rows_hold_every_tree_once_and_are_not_overfull(sizes):
    trees = [grow([path((i, 0), [1] * size, [2])]) for i, size in enumerate(sizes)]
    rows = pack(trees, 128)
    assert sorted(t.owners[0][0] for row in rows for t in row.trees) == list(range(len(sizes)))
    assert all(sum(map(len, row.trees)) <= row.capacity for row in rows)


def test_rows_have_few_lengths_and_little_filling():
    lengths = {rung(n, 128) for n in range(1, 2049)}
    assert len(lengths) < 40
    assert all(rung(n, 128) <= 1.13 * n + 32 for n in range(128, 4096))
    assert shared(np.array([1, 2, 3]), np.array([1, 2])) == 2
