"""Options scored together against the network run on each alone, here and in torch."""

import dataclasses
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from evaluation.encode import encode_questions
from evaluation.options import Asked, Scorer
from evaluation.prompt import ask, choose_items
from evaluation.source import open_model
from evaluation.task import load_task
from evaluation.taskrun import open_items, run_task
from model.config import LlamaConfig
from model.llama import forward, init_params
from tests.model import tiny_models
from tpu.config import MeshConfig
from tpu.mesh import make_mesh
from training.state import layout

CONFIG = LlamaConfig(
    vocab_size=97,
    vocab_multiple=8,
    embed_dim=32,
    mlp_dim=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_seq_len=96,
    init_std=0.2,
)
BOS = 1


def made(mesh):
    plan = layout(CONFIG, optax.identity(), mesh)
    init = jax.jit(lambda key: init_params(CONFIG, key), out_shardings=plan.shardings.params)
    scorer = Scorer(CONFIG, mesh, plan.specs, bos_id=BOS, batch_tokens=512)
    return scorer, init(jax.random.key(1))


@pytest.fixture(scope="module")
def one():
    return made(make_mesh(MeshConfig(), jax.devices()[:1]))


@pytest.fixture(scope="module")
def entries():
    """Entries with a common beginning, without one, with neighbours alike, with one that is too long."""
    rng = np.random.default_rng(0)

    def some(most, least=1):
        return tuple(rng.integers(2, 97, rng.integers(least, most + 1)).tolist())

    shots, story = some(30, 30), some(30, 30)
    found = [
        Asked((shots if i % 2 else ()) + some(50, 20), tuple(some(4) for _ in range(1 + i % 5)))
        for i in range(24)
    ]
    found += [Asked(story + some(5), ((4, 5, 6),)) for _ in range(4)]
    found.append(Asked((BOS, *some(300, 300)), ((4, 5, 6), (7,))))
    return found


@pytest.fixture(scope="module")
def logprobs_of(one):
    """Log-probabilities [T, V] of a text alone, by the plain network."""
    _, params = one
    plain = jax.jit(lambda tokens: jax.nn.log_softmax(forward(params, CONFIG, tokens)[0], -1))
    return lambda text: np.asarray(plain(jnp.asarray(np.pad(text, (0, 104 - len(text))))[None]))


def test_every_option_is_what_the_network_alone_makes_of_it(one, entries, logprobs_of):
    scorer, params = one
    for entry, scored in zip(entries, scorer.score(params, entries), strict=True):
        context = entry.context
        if scored.cut:  # the beginning goes, BOS stays
            context = (BOS, *context[1 + scored.cut :])
        assert len(context) + max(map(len, entry.continuations)) - 1 <= CONFIG.max_seq_len
        for option, nats, greedy in zip(
            entry.continuations, scored.logprobs, scored.greedy, strict=True
        ):
            rows = logprobs_of((*context, *option))[len(context) - 1 :]
            assert nats == pytest.approx(sum(rows[i, t] for i, t in enumerate(option)), abs=1e-4)
            assert greedy == all(rows[i].argmax() == t for i, t in enumerate(option))
    assert [s.cut for s in scorer.score(params, entries[-1:])] == [301 - (96 - 3 + 1)]


def test_what_is_shared_is_read_once(one, entries):
    scorer, params = one
    scorer.score(params, entries)
    read = sum(len(e.context) + len(c) for e in entries for c in e.continuations)
    assert scorer.counts["prefix"] >= 30
    assert scorer.counts["tokens"] + scorer.counts["prefix"] < read / 2
    assert scorer.counts["positions"] < scorer.counts["tokens"] / 3


def test_in_a_batch_as_alone(one, entries):
    scorer, params = one
    together = scorer.score(params, entries)
    for i in (0, 2, 5):
        (alone,) = scorer.score(params, [entries[i]])
        assert alone.logprobs == pytest.approx(together[i].logprobs, abs=1e-5)
        assert alone.greedy == together[i].greedy


def test_eight_devices_as_one(one, entries):
    scorer, params = one
    eight, split = made(make_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices()))
    assert len(jax.tree.leaves(split)[0].sharding.device_set) == 8
    for a, b in zip(scorer.score(params, entries), eight.score(split, entries), strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
        assert (a.tokens, a.cut) == (b.tokens, b.cut)


def test_bfloat16_is_near(one, entries):
    scorer, params = one
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    specs = layout(CONFIG, optax.identity(), mesh).specs
    rough = Scorer(CONFIG, mesh, specs, compute_dtype="bfloat16", batch_tokens=512)
    exact = np.concatenate([s.logprobs for s in scorer.score(params, entries[:6])])
    near = np.concatenate([s.logprobs for s in rough.score(params, entries[:6])])
    assert 0 < np.abs(exact - near).max() < 0.5


def test_a_whole_text_in_windows(one, logprobs_of):
    scorer, params = one
    text = np.random.default_rng(5).integers(2, 97, 230).tolist()
    short, long = scorer.rolling(params, [text[:50], text], prefix=BOS)
    rows = logprobs_of((BOS, *text[:49]))
    assert short.logprob == pytest.approx(
        sum(rows[i, t] for i, t in enumerate(text[:50])), abs=1e-4
    )
    assert (short.tokens, long.tokens) == (50, 230)
    # The windows: 96 tokens from BOS, 96 from the 96th token, the rest with a full window before it.
    whole, known = [BOS, *text], 0.0
    for first, start, end in ((0, 1, 97), (96, 97, 193), (134, 193, 231)):
        rows = logprobs_of(whole[first : end - 1])
        known += sum(rows[start - first - 1 + i, t] for i, t in enumerate(whole[start:end]))
    assert long.logprob == pytest.approx(known, abs=1e-3)
    (unled,) = scorer.rolling(params, [text[:50]], prefix=None)
    assert unled.tokens == 49


def test_what_cannot_be_asked_is_said(one):
    scorer, params = one
    with pytest.raises(ValueError, match="must have tokens"):
        scorer.score(params, [Asked((), ((1,),))])
    with pytest.raises(ValueError, match="must have tokens"):
        scorer.score(params, [Asked((1,), ((),))])
    with pytest.raises(ValueError, match="does not fit the window of 96"):
        scorer.score(params, [Asked((1,), ((2,) * 97,))])
    assert scorer.score(params, []) == []


# --- torch ----------------------------------------------------------------------------------------

# Three models trained for a moment, and three random ones whose numbers spread as a trained one's do: the
# wider ones of `tiny_models` are so steep that float32 itself is further from float64 than 1e-4.
RANDOM = {
    "spread_grouped": ("LlamaConfig", {"num_key_value_heads": 2}, 0),
    "spread_tied": ("LlamaConfig", {"tie_word_embeddings": True, "num_key_value_heads": 4}, 0),
    "spread_mistral": ("MistralConfig", {"num_key_value_heads": 2, "sliding_window": 512}, 0),
}
TRAINED = ("grouped", "tied_stretched", "biases_single_head")
tiny_models.SHAPES.update(RANDOM)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders by name, made when asked for, each with their model beside it."""
    root = tmp_path_factory.mktemp("scored")
    tokenizer = tiny_models.make_tokenizer(root)
    done = {}

    def folder(name):
        if name not in done:
            (root / name).mkdir()
            done[name] = (root / name, tiny_models.make_folder(root / name, name, tokenizer))
        return done[name]

    return folder


def by_torch(folder, theirs, texts):
    """Nats of the text behind a prompt, tokenized and computed by transformers, in float64, one by one."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = theirs.double()
    found = []
    for prompt, option in texts:
        ids = tokenizer(f"{prompt} {option}")["input_ids"]
        start = len(tokenizer(prompt)["input_ids"])
        most = theirs.config.max_position_embeddings
        if len(ids) - 1 > most:  # the beginning goes, BOS stays
            gone = len(ids) - 1 - most
            ids, start = [ids[0], *ids[1 + gone :]], start - gone
        with torch.no_grad():
            logprobs = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append(sum(float(logprobs[i - 1, ids[i]]) for i in range(start, len(ids))))
    return found


@functools.cache
def opened(folder, devices):
    """A folder's model on some devices, and one scorer for all tasks, so that shapes are compiled once."""
    mesh = make_mesh(MeshConfig(fsdp=-1), jax.devices()[:devices])
    model = open_model(str(folder), mesh)
    bos_id = model.tokenizer.bos_id
    return model, Scorer(
        model.config, mesh, model.plan.specs, compute_dtype="float32", bos_id=bos_id
    )


def compare(folder, theirs, name, items, *, devices=1):
    """A task on a folder by us and by torch: the largest difference, both accuracies, near ties."""
    task = load_task(name)
    model, scorer = opened(folder, devices)
    found = open_items(task, fixtures=True)
    result = run_task(task, found, model, scorer, limit=items)
    chosen, examples = choose_items(found.items, task, limit=items, seed=0, rendered=found.rendered)
    questions = ask(chosen, examples, task, rendered=found.rendered)
    asked, counts = encode_questions(questions, model.tokenizer, add_bos=model.add_bos)
    scored = iter(scorer.score(model.params, asked))
    apart, right, ties = 0.0, [], []
    for question, count in zip(questions, counts, strict=True):
        ours = [x for _ in range(count) for x in zip(*_pair(next(scored)), strict=True)]
        texts = [(p[0].text, a) for p in question.prompts for a in question.answers]
        expected = by_torch(folder, theirs, texts)
        apart = max(apart, *(abs(a - b) for (a, _), b in zip(ours, expected, strict=True)))
        scores = np.array([b / size for (_, size), b in zip(ours, expected, strict=True)])
        right.append(float(int(scores.argmax()) in question.item.gold))
        best = np.sort(scores)[::-1]
        if best[0] - best[1] < 1e-4:
            ties.append(question.item.id)
    mine = [r for i, r in zip(result.ids, result.per_item, strict=True) if i not in ties]
    their = [r for q, r in zip(questions, right, strict=True) if q.item.id not in ties]
    return apart, mine, their, ties


def _pair(scored):
    return scored.logprobs, scored.tokens


@pytest.mark.parametrize(
    ("name", "task"), [("spread_grouped", "chemprot"), ("spread_tied", "casehold")]
)
def test_options_as_torch_has_them(folders, name, task):
    pytest.importorskip("torch")
    folder, theirs = folders(name)
    apart, ours, expected, ties = compare(folder, theirs, task, 4)
    assert apart <= 1e-4
    assert ours == expected
    assert len(ties) < 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TRAINED, *RANDOM])
def test_six_models_on_six_tasks_as_torch_has_them(folders, name):
    """Three trained models and three random ones; items with a margin under 1e-4 are listed.

    LECTERN_ITEMS: so many of each task; default: 20.
    """
    pytest.importorskip("torch")
    folder, theirs = folders(name)
    items = int(os.environ.get("LECTERN_ITEMS", "20"))
    for task in ("chemprot", "casehold", "unfair_tos", "headline", "usmle", "mqp"):
        for devices in (1, 8):
            apart, ours, expected, ties = compare(folder, theirs, task, items, devices=devices)
            print(f"{name} {task} on {devices}: {apart:.1e} apart, margin under 1e-4: {ties}")
            assert apart <= 1e-4
            assert ours == expected


def test_a_run_measures_its_live_weights_without_compiling_anew(folders):
    pytest.importorskip("torch")
    folder, _ = folders("spread_grouped")
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    model = open_model(str(folder), mesh)
    scorer = Scorer(model.config, mesh, model.plan.specs, bos_id=model.tokenizer.bos_id)
    task = load_task("fpb")
    items = open_items(task, fixtures=True)
    first = run_task(task, items, model, scorer, limit=6)
    programs = scorer.compiled
    doubled = jax.tree.map(lambda x: x * 1.5, model.params)
    second = run_task(task, items, dataclasses.replace(model, params=doubled), scorer, limit=6)
    assert scorer.compiled == programs
    assert [s["scores"] for s in first.samples] != [s["scores"] for s in second.samples]
    assert json.loads(first.to_json())["ids"] == list(first.ids)
