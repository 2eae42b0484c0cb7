"""A folder of the published synthesizer's shape: prompt, engine, parse; byte for byte as transformers.

The published one is Mistral-7B with a LLaMA tokenizer. This one is as small as can be and has learned
two examples by heart, so that what it says is known.
"""

import json
import shutil
from pathlib import Path

import pytest

from data.generator import Sampling
from data.literal import encode_literal
from data.synthesis.config import SynthesisConfig
from data.synthesis.format import (
    Example,
    Pair,
    parse,
    synthesis_prompt,
    write_context,
    write_example,
)
from data.synthesis.synthesize import synthesize
from data.tally import Tally
from data.tokenizer import load_tokenizer
from tests.data import made_tokenizers
from tests.data.synthesis import made

FIRST = Example(
    "Aspirin reduces fever and pain. It is given orally, twice a day.",
    (
        Pair("What does aspirin reduce?", "fever and pain"),
        Pair("How often is it given?\nOptions:\n- twice a day\n- never", "twice a day"),
    ),
)
SECOND = Example(
    "The heart pumps blood. It beats 1234 times a day, and more in exercise.",
    (
        Pair("What does the heart pump?", "blood"),
        Pair(
            "Does the heart beat?\nLet's think step by step.",
            "It beats 1234 times.\nTherefore, the answer is yes",
        ),
    ),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A Mistral folder, saved by transformers, trained for some seconds."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    path = tmp_path_factory.mktemp("synthesizer")
    made_tokenizers.llama2(path, prefix="every")
    tokenizer = load_tokenizer(path)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model only waits for the others
    config = MistralConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        sliding_window=None, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    text = write_example(FIRST) + write_example(SECOND)
    row = torch.tensor(encode_literal(text, tokenizer)[None].astype("int64"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = model(input_ids=row, labels=row).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            break
    torch.set_num_threads(threads)
    assert loss.item() < 0.05
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=["tokenizer.json", "tokenizer.model"])
def folder(request, trained, tmp_path_factory) -> Path:
    """The folder with either file of the tokenizer, with and without a window of attention."""
    if request.param == "tokenizer.json":
        return trained
    path = tmp_path_factory.mktemp("with_sentencepiece")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(trained / name, path / name)
    made_tokenizers.sentencepiece_model(path)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": True}
    settings |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"sliding_window": 4096}))
    return path


@pytest.fixture(scope="module")
def engine(folder):
    from model.config import GenerationConfig
    from model.generate import open_engine

    return open_engine(str(folder), GenerationConfig(slots=4, window=1024))


def test_the_folder_writes_the_pairs_it_knows(engine):
    sampling = Sampling(max_new_tokens=400, stop=("</s>",))
    prompts = [
        synthesis_prompt("one", FIRST.text, (), sampling),
        synthesis_prompt("two", SECOND.text, (FIRST,), sampling),
    ]
    completions = {completion.id: completion for completion in engine.generate(prompts)}
    assert {c.finish for c in completions.values()} == {"stop"}
    for id_, example in (("one", FIRST), ("two", SECOND)):
        parsed = parse(completions[id_].text)
        assert parsed.pairs == example.pairs
        assert not parsed.rejected
        wanted = write_example(example).removeprefix(write_context(example.text))
        assert completions[id_].text == wanted.removesuffix("</s>")


def test_either_file_of_the_tokenizer_gives_the_same_ids(trained, folder):
    text = synthesis_prompt("x", SECOND.text, (FIRST,)).turns[0].text
    ids = [encode_literal(text, load_tokenizer(place)).tolist() for place in (trained, folder)]
    assert ids[0] == ids[1]


def test_the_prompt_and_the_reply_are_those_of_transformers(folder, engine):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "tokenizer.json").exists():
        pytest.skip("transformers 5 reads a bare .model without the space before every text")
    theirs = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = synthesis_prompt("x", SECOND.text, (FIRST,), Sampling(max_new_tokens=400))
    ids = theirs(prompt.turns[0].text, add_special_tokens=False, return_tensors="pt").input_ids
    ours = encode_literal(prompt.turns[0].text, load_tokenizer(folder))
    assert ids[0].tolist() == ours.tolist()
    assert (ours == 1).sum() == 2  # BOS of either example, none doubled
    with torch.no_grad():
        written = model.generate(ids, max_new_tokens=400, do_sample=False)[0, ids.shape[1] :]
    (completion,) = engine.generate([prompt])
    assert completion.num_prompt_tokens == ids.shape[1]
    text = theirs.decode(written, skip_special_tokens=True)
    assert parse(completion.text) == parse(text)
    assert completion.text.split() == text.split()


def test_a_job_with_the_engine_that_is_stopped_goes_on_with_the_same_pairs(
    folder, engine, tmp_path
):
    """Texts it knows, texts it does not; stopped after each number of completions in turn."""
    tokenizer = load_tokenizer(folder)
    texts = [FIRST.text, SECOND.text, *(made.text_of(n) for n in range(4))]
    documents = sorted((made.document(0, text) for text in texts), key=lambda d: d.id)
    config = SynthesisConfig(rounds=2, window=1024, max_new_tokens=150, min_text_chars=20)

    def job(work: Path, stop: int | None = None) -> tuple[list[str], int]:
        asked = 0

        def generate(prompts):
            nonlocal asked
            for completion in engine.generate(prompts):
                if asked == stop:
                    raise KeyboardInterrupt
                asked += 1
                yield completion

        out = synthesize(
            documents, config, generate=generate, tokenizer=tokenizer, seq_len=1024,
            tally=Tally("articles"), work=str(work),
        )  # fmt: skip
        return [document.to_json() for document in out], asked

    wanted, asked = job(tmp_path / "whole")
    assert asked == len(documents)
    assert sum('"family": "synthesis"' in line for line in wanted) >= 1
    for stop in (1, 3, 5):
        work = tmp_path / f"stop-{stop}"
        with pytest.raises(KeyboardInterrupt):
            job(work, stop)
        again, rest = job(work)
        assert again == wanted
        assert rest == len(documents) - stop
