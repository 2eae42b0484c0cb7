"""The engine: a text is its prompt's alone, whatever its company; stops, windows, streams, laziness."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from data.chat import ChatConfig
from data.document import Turn
from data.generator import Prompt, Sampling
from model.config import GenerationConfig, LlamaConfig
from model.engine import Engine
from model.llama import abstract_params, forward, init_params, param_names
from tests.model.tiny_models import make_tokenizer
from tpu.config import MeshConfig
from tpu.mesh import make_mesh, param_specs

CONFIG = LlamaConfig(
    vocab_size=600,
    embed_dim=32,
    mlp_dim=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    max_seq_len=96,
    attention_bias=True,
    init_std=0.3,  # large, so that greedy texts wander
)
WORDS = [
    "the",
    "heart",
    "of",
    "a",
    "patient",
    "with",
    "fever",
    "and",
    "pain",
    "was",
    "seen",
    "in",
    "both",
    "lungs",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def engine(params, tokenizer):
    """Four slots, three tokens between looks."""
    return Engine(params, CONFIG, tokenizer, GenerationConfig(slots=4, steps=3, logprobs=True))


def prompt(number, **sampling):
    """A short text of its own for every number."""
    words = [WORDS[(number * k + k * k) % len(WORDS)] for k in range(number % 6 + 1)]
    return Prompt(f"p{number}", (Turn("text", " ".join(words)),), Sampling(**sampling))


MIXED = [
    prompt(0, max_new_tokens=9),
    prompt(1, max_new_tokens=1),
    prompt(2, max_new_tokens=14, temperature=0.9, top_p=0.9, seed=3),
    prompt(3, max_new_tokens=7, repetition_penalty=1.3),
    prompt(4, max_new_tokens=20, temperature=1.2, top_k=20, seed=5),
    prompt(5, max_new_tokens=12, temperature=0.8, min_p=0.05, seed=5),
    prompt(6, max_new_tokens=5),
    prompt(7, max_new_tokens=16, temperature=1.0, seed=2**33),
    prompt(8, max_new_tokens=11, stop=("e", "xyz")),
]


@pytest.fixture(scope="module")
def alone(engine):
    return {p.id: next(engine.generate([p])) for p in MIXED}


def test_greedy_is_the_largest_logit_of_the_plain_network(engine, params, alone, tokenizer):
    run = jax.jit(lambda tokens: forward(params, CONFIG, tokens))
    for asked in (MIXED[0], MIXED[6]):
        ids = engine._encode(asked).tolist()
        begin = len(ids)
        nats = []
        for _ in range(asked.sampling.max_new_tokens):
            padded = np.zeros((1, 48), np.int32)
            padded[0, : len(ids)] = ids
            logits = np.asarray(run(padded)[0, len(ids) - 1], np.float64)
            ids.append(int(logits.argmax()))
            nats.append(logits.max() - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
            if ids[-1] == tokenizer.eos_id:
                break
        done = alone[asked.id]
        assert done.num_tokens == len(ids) - begin
        assert tokenizer.decode(ids).endswith(done.text)
        np.testing.assert_allclose(done.logprobs, nats, atol=1e-4)


@pytest.mark.parametrize("order", [1, -1])
def test_a_text_does_not_depend_on_its_company(engine, alone, order):
    together = {c.id: c for c in engine.generate(MIXED[::order])}
    assert together == alone  # log-probabilities too, to the last bit


def test_the_next_steps_may_be_sent_off_before_the_last_are_looked_at(engine, alone):
    engine._lag = 1  # as beside a TPU
    try:
        assert {c.id: c for c in engine.generate(MIXED)} == alone
        assert "".join(engine.stream(MIXED[8])) == alone["p8"].text
    finally:
        engine._lag = 0
        engine._under_way.clear()


def test_a_text_does_not_depend_on_its_slot(engine):
    asked = [replace(MIXED[2], id=str(i)) for i in range(4)]
    done = [replace(c, id="") for c in engine.generate(asked)]
    assert len(done) == 4
    assert all(c == done[0] for c in done)


def test_seeds(engine):
    one, same, other = (
        next(engine.generate([prompt(9, max_new_tokens=16, temperature=1.5, seed=s)])).text
        for s in (1, 1, 2)
    )
    assert one == same != other


def test_finished_texts_come_at_once_and_prompts_are_taken_as_there_is_room(engine):
    taken = []

    def endless():
        for n in itertools.count():
            taken.append(n)
            yield replace(prompt(n, max_new_tokens=2 if n % 4 else 30), id=str(n))

    source = engine.generate(endless())
    done = [next(source) for _ in range(9)]
    source.close()
    assert len(taken) <= 9 + 4
    assert {c.num_tokens for c in done} <= {1, 2}  # the short ones overtook the long one
    assert engine._tenants == [None] * 4


def test_two_calls_share_the_slots(engine, alone):
    first, second = engine.generate(MIXED[:5]), engine.generate(MIXED[5:])
    done = {}
    for pair in itertools.zip_longest(first, second):
        done |= {c.id: c for c in pair if c}
    assert done == alone


def test_a_stop_string_ends_the_text_before_it(engine):
    asked = prompt(0, max_new_tokens=24)
    whole = next(engine.generate([asked])).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    cut = next(
        engine.generate([replace(asked, sampling=Sampling(max_new_tokens=24, stop=(stop,)))])
    )
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish == "stop"
    assert len(cut.logprobs) == cut.num_tokens < 24


def test_a_stop_token_ends_the_text(params, tokenizer, engine):
    asked = prompt(0, max_new_tokens=24)
    written = []
    complete = engine._complete
    engine._complete = lambda request, finish: (
        written.extend(request.written),
        complete(request, finish),
    )
    next(engine.generate([asked]))
    del engine._complete
    token = written[5]
    other = Engine(
        params,
        CONFIG,
        tokenizer,
        GenerationConfig(slots=4, steps=3),
        stop_tokens=[token],
    )
    done = next(other.generate([asked]))
    assert (done.finish, done.num_tokens) == ("stop", written.index(token) + 1)


def test_streams_add_up_to_the_text(engine):
    for asked in (MIXED[0], MIXED[4], MIXED[8]):
        pieces = list(engine.stream(asked))
        assert "".join(pieces) == next(engine.generate([asked])).text
    assert len(list(engine.stream(MIXED[4]))) > 1


def test_prompts_that_do_not_fit(engine, params, tokenizer):
    long = Prompt("long", (Turn("text", " ".join(WORDS * 12)),), Sampling(max_new_tokens=8))
    done = {c.id: c for c in engine.generate([long, MIXED[0]])}
    assert done["long"].finish == "error"
    assert "window of 96" in done["long"].error
    assert done["p0"].finish == "length"
    settings = GenerationConfig(slots=2, window=40, long_prompts="cut")
    cut = Engine(params, CONFIG, tokenizer, settings)
    completion = next(cut.generate([long]))
    assert (completion.num_prompt_tokens, completion.num_tokens) == (32, 8)
    assert cut.counts["cut"] == 1
    tokens = cut._fit(cut._encode(long), 8)
    assert tokens[0] == tokenizer.bos_id
    np.testing.assert_array_equal(tokens[1:], cut._encode(long)[-31:])
    nearly = replace(long, sampling=Sampling(max_new_tokens=400))
    text = next(cut.generate([replace(nearly, turns=(Turn("text", "the heart"),))]))
    assert text.finish == "length"
    assert text.num_prompt_tokens + text.num_tokens == 40


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (prompt(0, temperature=-1.0), "temperature"),
        (Prompt("x", (Turn("assistant", "hm"), Turn("text", "a"))), "running text"),
        (Prompt("x", (Turn("user", "a"),), literal_special=True), "literal_special"),
        (Prompt("x", (Turn("text", ""),), literal_special=True), "no tokens"),
    ],
)
def test_what_cannot_be_continued_is_an_error_completion(engine, asked, message):
    engine._chat, before = ChatConfig(template="llama2"), engine._chat
    done = next(engine.generate([asked]))
    engine._chat = before
    assert done.finish == "error"
    assert message in done.error
    assert done.text == ""


def test_literal_special_tokens_are_not_doubled(engine, tokenizer):
    literal = Prompt("x", (Turn("text", "<s>the heart"),), literal_special=True)
    plain = Prompt("x", (Turn("text", "the heart"),))
    ids = engine._encode(literal).tolist()
    assert ids == engine._encode(plain).tolist()
    assert ids.count(tokenizer.bos_id) == 1
    typed = replace(plain, turns=(Turn("text", "<s>the heart"),))
    assert engine._encode(typed).tolist().count(tokenizer.bos_id) == 1  # BOS, then text


def test_heads_over_several_devices(tokenizer):
    config = CONFIG.model_copy(update={"num_kv_heads": 4})
    weights = init_params(config, jax.random.key(0))
    asked = [MIXED[0], MIXED[2], MIXED[8]]
    settings = GenerationConfig(slots=4, steps=3)
    one = {c.id: c for c in Engine(weights, config, tokenizer, settings).generate(asked)}
    for tensor in (2, 4):
        mesh = make_mesh(MeshConfig(fsdp=1, tensor=tensor), jax.devices()[:tensor])
        specs = param_specs(param_names(config), abstract_params(config), mesh)
        shardings = jax.tree.map(lambda s, m=mesh: NamedSharding(m, s), specs)
        spread = jax.device_put(weights, shardings)
        engine = Engine(spread, config, tokenizer, settings, mesh=mesh)
        shard = engine._cache.keys.sharding.shard_shape(engine._cache.keys.shape)
        assert shard[2] == 4 // tensor
        assert {c.id: c for c in engine.generate(asked)} == one


def test_layers_scanned_or_unrolled(params, tokenizer, alone, monkeypatch):
    from model import engine as module

    monkeypatch.setattr(module, "unstacked", lambda params: params)
    scanned = Engine(params, CONFIG, tokenizer, GenerationConfig(slots=4, steps=3))
    done = {c.id: c for c in scanned.generate(MIXED)}
    assert {i: c.text for i, c in done.items()} == {i: c.text for i, c in alone.items()}


def test_a_window_beyond_the_model_is_refused(params, tokenizer):
    with pytest.raises(ValueError, match="window: 97"):
        Engine(params, CONFIG, tokenizer, GenerationConfig(window=97))


def test_the_cache_is_not_copied_between_steps(engine):
    kept = np.ones(4, bool)
    compiled = engine._run_jit.lower(
        engine._params,
        cache=engine._cache,
        slots=engine._slots,
        kept=kept,
        waiting=np.bool_(False),
    ).compile()
    cached = sum(x.nbytes for x in engine._cache)
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= cached
    assert memory.temp_size_in_bytes < jnp.maximum(cached, 400_000)
