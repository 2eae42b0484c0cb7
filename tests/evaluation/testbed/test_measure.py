"""Scoring of the testbed: memorised, answerable, and their figures."""

import itertools

import numpy as np
import pytest

from evaluation.options import Scored
from evaluation.testbed.figures import bootstrap, figures_of
from evaluation.testbed.measure import Answer, answers, asked, summary
from evaluation.testbed.questions import Item, make_items


def test_a_planted_model_is_scored_as_it_answers(world, tokenizer):
    """A bigram model that always says the same value after a question mark."""
    import jax.numpy as jnp

    from evaluation.options import Scorer
    from model.config import LlamaConfig
    from model.llama import abstract_params, param_names
    from tpu.config import MeshConfig
    from tpu.mesh import make_mesh, param_specs

    size = tokenizer.vocab_size + tokenizer.vocab_size % 2
    shape = LlamaConfig(
        vocab_size=size,
        embed_dim=size,
        mlp_dim=2,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=2,
    )
    items = [
        item
        for item in make_items(world.domain, world.domain.held_out, 0)
        if item.attribute == "maker" and item.kind == "seen" and item.prompt.endswith("?")
    ]
    asked_ = asked(items, tokenizer)
    said = items[0].right
    chain = (asked_[0].context[-1], *asked_[0].continuations[said])
    import jax

    params = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), abstract_params(shape))
    params["embed"]["table"] = jnp.eye(size)
    params["final_norm"]["scale"] = jnp.ones(size)
    kernel = np.zeros((size, size), np.float32)
    for before, after in itertools.pairwise(chain):
        kernel[before, after] += 1.0
    params["head"]["kernel"] = jnp.asarray(kernel)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    scorer = Scorer(shape, mesh, param_specs(param_names(shape), abstract_params(shape), mesh))
    found = answers(items, scorer.score(params, asked_))
    for item, answer in zip(items, found, strict=True):
        assert answer.greedy == (item.right == said)
        assert (answer.rank == 1) == (item.right == said)


def item(entity, attribute, kind, right=0):
    return Item(entity, attribute, kind, "?", ("a", "b", "c"), right)


def test_ranks_count_ties_against_the_right_value():
    scored = [
        Scored((-1.0, -2.0, -3.0), (1, 1, 1), (True, False, False), 0),
        Scored((-2.0, -2.0, -3.0), (1, 1, 1), (False, False, False), 0),
    ]
    found = answers([item("A", "maker", "cloze"), item("B", "maker", "cloze")], scored)
    assert [answer.rank for answer in found] == [1, 2]
    assert [answer.greedy for answer in found] == [True, False]


def test_answerable_given_memorised_leaves_out_what_is_not_memorised():
    found = [
        Answer("A", "maker", "cloze", 1, False),
        Answer("A", "maker", "seen", 1, True),
        Answer("B", "maker", "cloze", 2, True),
        Answer("B", "maker", "seen", 3, False),
        Answer("C", "maker", "cloze", 1, True),
        Answer("C", "maker", "seen", 1, False),
    ]
    figures = summary(found)
    assert figures["memorised"] == pytest.approx(2 / 3)
    assert figures["seen"]["greedy"] == pytest.approx(1 / 3)
    assert figures["seen"]["greedy_given_memorised"] == pytest.approx(1 / 2)
    assert figures["seen"]["mean_rank"] == pytest.approx(5 / 3)
    assert figures["unseen"]["greedy"] is None
    again = figures_of([found, found], draws=200)
    assert again["answerable_given_memorised"].value == pytest.approx(1 / 2)
    assert again["answerable_given_memorised"].facts == 4
    assert again["answerable_unseen"].value is None


def test_the_bootstrap_draws_entities():
    assert bootstrap(np.full(20, 3), np.full(20, 6), draws=100) == (0.5, 0.5)
    right, count = np.array([6] * 24 + [0] * 24), np.full(48, 6)
    low, high = bootstrap(right, count, draws=4000)
    # The standard error of 48 entities of which half are right, not that of 288 facts.
    assert (high - low) / 2 == pytest.approx(1.96 * (0.25 / 48) ** 0.5, rel=0.1)


def test_prompts_are_what_training_has(world, tokenizer):
    items = make_items(world.domain, world.domain.held_out, 0)
    assert {i.kind for i in items} == {"cloze", "seen", "unseen"}
    for found, one in list(zip(items, asked(items, tokenizer), strict=True))[::7]:
        for value, continuation in zip(found.values, one.continuations, strict=True):
            whole = tokenizer.decode([*one.context, *continuation])
            assert whole.strip() == f"{found.prompt} {value}"
