"""Greedy texts against transformers', on trained and random models, alone and in company."""

import numpy as np
import pytest

from data.document import Turn
from data.generator import Prompt, Sampling
from model.config import GenerationConfig
from model.generate import open_engine
from tests.model.tiny_models import SHAPES, make_folder, make_tokenizer, sample_texts

MARGIN = 1e-3
NEW = 24


def ragged_prompts(tokenizer):
    """20 texts of 1 to 120 tokens."""
    rng = np.random.default_rng(7)
    texts = sample_texts()
    prompts = []
    for i, length in enumerate(np.linspace(1, 120, 20).astype(int)):
        ids = tokenizer.encode(texts[int(rng.integers(len(texts)))])[:length]
        turn = Turn("text", tokenizer.decode(ids))
        prompts.append(Prompt(str(i), (turn,), Sampling(max_new_tokens=NEW - i % 5)))
    return prompts


def compare(name, folder, tokenizer):
    """Positions compared and skipped, all 20 prompts against transformers."""
    import torch

    theirs = make_folder(folder, name, tokenizer)
    engine = open_engine(str(folder), GenerationConfig(slots=8, window=256, logprobs=True))
    prompts = ragged_prompts(tokenizer)
    written = {}
    complete = engine._complete

    def noted(request, finish):
        written[request.prompt.id] = list(request.written)
        complete(request, finish)

    engine._complete = noted
    together = {c.id: c for c in engine.generate(prompts)}
    tokens = dict(written)
    backwards = {c.id: c for c in engine.generate(prompts[::-1])}
    alone = {p.id: next(engine.generate([p])) for p in prompts}
    assert together == backwards == alone  # texts and log-probabilities, bit for bit
    compared = skipped = 0
    for prompt in prompts:
        ids = torch.tensor(engine._encode(prompt))[None].long()
        with torch.inference_mode():
            out = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=prompt.sampling.max_new_tokens,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        expected = out.sequences[0, ids.shape[1] :].tolist()
        ours = tokens[prompt.id]
        for at, token in enumerate(expected):
            if at < len(ours) and ours[at] == token:
                compared += 1
                continue
            best = torch.topk(out.logits[at][0], 2).values
            assert float(best[0] - best[1]) < MARGIN, f"{name}, {prompt.id}: token {at} differs"
            skipped += len(expected) - at  # behind a near tie the two read different texts
            break
        else:
            assert len(ours) == len(expected)
            assert tokenizer.decode(ids[0].tolist() + ours).endswith(together[prompt.id].text)
    return compared, skipped


@pytest.mark.slow
def test_greedy_is_transformers_greedy(tmp_path):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    compared = skipped = 0
    for name in SHAPES:
        more, less = compare(name, tmp_path / name, tokenizer)
        print(f"{name}: {more} positions compared, {less} skipped")
        compared, skipped = compared + more, skipped + less
    assert compared > 1500
    assert skipped < 0.001 * compared


def test_greedy_is_transformers_greedy_on_a_trained_model_with_biases(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    compared, skipped = compare("biases_single_head", tmp_path, tokenizer)
    assert compared > 300
    assert skipped < 30
