"""`python -m evaluation.run` on a run directory, on its export, and on a model with another tokenizer."""

import json
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import train
from configs.load import load_recipe
from configs.recipe import TrainRecipe
from data.chat import encode_documents
from data.config import ChatConfig, SentencePieceConfig
from data.document import Document
from data.tokenizer import load_tokenizer, train_sentencepiece
from evaluation import run as evaluation_run
from model.config import LlamaConfig
from model.export import export_run
from model.huggingface.config import read_config
from model.huggingface.load import load_params
from model.llama import forward


@pytest.fixture(scope="module")
def trained(sample_streams, tmp_path_factory):
    """A run of two steps, and its recipe."""
    folder = tmp_path_factory.mktemp("evaluated")
    streams = {n: {"path": str(sample_streams / n)} for n in ("biomedicine", "instructions")}
    whole = {
        "run_dir": str(folder / "run"),
        "tokenizer": str(sample_streams / "tokenizer"),
        "model": {"preset": "tiny", "num_layers": 2, "embed_dim": 48, "mlp_dim": 64},
        "streams": streams,
        "train": {
            "num_steps": 2,
            "seq_len": 128,
            "global_batch_rows": 8,
            "compute_dtype": "float32",
        },
        "optimizer": {"peak_lr": 1e-3},
        "tracking": {"tensorboard": False},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(whole))
    assert train.main([str(path)]) == 0
    return path, folder / "run"


def last_scores(run_dir):
    """The run's own last held-out numbers."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "eval/biomedicine/loss" in line][-1]


def test_a_run_directory_gives_what_the_run_said(trained, capsys, tmp_path):
    _, run_dir = trained
    out = tmp_path / "scores.json"
    assert evaluation_run.main([str(run_dir), f"--json={out}"]) == 0
    scores, said = json.loads(out.read_text()), last_scores(run_dir)
    for name in ("biomedicine", "instructions"):
        stream = scores["streams"][name]
        assert stream["loss"] == pytest.approx(said[f"eval/{name}/loss"], rel=1e-6)
        low, high = stream["bits_per_byte_interval"]
        assert low < stream["bits_per_byte"] < high
    assert scores["step"] == 2
    assert "biomedicine" in capsys.readouterr().out


def test_an_export_in_float32_gives_the_same_loss(trained, tmp_path):
    """The documents are tokenized anew with the exported tokenizer, which gives the same ids."""
    path, run_dir = trained
    export_run(str(run_dir), str(tmp_path / "hf"), dtype="f32")
    recipe = load_recipe(TrainRecipe, str(path))
    scores, said = evaluation_run.measure(str(tmp_path / "hf"), recipe), last_scores(run_dir)
    for name in ("biomedicine", "instructions"):
        assert scores["streams"][name]["loss"] == pytest.approx(said[f"eval/{name}/loss"], abs=1e-5)


def test_bits_per_byte_against_a_plain_count_with_another_tokenizer(
    trained, sample_streams, tmp_path
):
    """Every held-out document alone, no packing: nats over bytes of the tokens that were predicted."""
    path, run_dir = trained
    export_run(str(run_dir), str(tmp_path / "hf"), dtype="f32")
    lines = _documents(sample_streams / "biomedicine" / "heldout" / "documents.jsonl.zst")
    documents = [Document.from_json(line) for line in lines]
    texts = [turn.text for document in documents for turn in document.turns]
    other = train_sentencepiece(texts, str(tmp_path / "other"), SentencePieceConfig(vocab_size=500))
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        (tmp_path / "hf" / name).unlink(missing_ok=True)
    other.save(tmp_path / "hf")
    tokenizer = load_tokenizer(str(tmp_path / "hf"))
    assert tokenizer.fingerprint == other.fingerprint

    recipe = load_recipe(TrainRecipe, str(path), ["train.seq_len=1024"])
    scores = evaluation_run.measure(str(tmp_path / "hf"), recipe)
    assert scores["streams"]["biomedicine"]["tokenized_anew"]

    config: LlamaConfig = read_config(str(tmp_path / "hf"))
    params = load_params(str(tmp_path / "hf"), config)
    sizes, nats, num_bytes = tokenizer.byte_lengths(), 0.0, 0
    encoded = encode_documents(
        documents, tokenizer, ChatConfig(), add_bos=scores["add_bos"], add_eos=True
    )
    for tokens in (e.tokens for e in encoded):
        # Few lengths, so that few programs are compiled; the filling comes after all that counts.
        filled = np.pad(tokens, (0, -len(tokens) % 256))
        logits = forward(params, config, jnp.asarray(filled)[None])[0, : len(tokens) - 1]
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[1:])
        text = sizes[tokens[1:]] > 0
        nats += float(np.sum(nll * text))
        num_bytes += int(sizes[tokens[1:]].sum())
    assert scores["streams"]["biomedicine"]["bytes"] == num_bytes
    assert scores["streams"]["biomedicine"]["bits_per_byte"] == pytest.approx(
        nats / math.log(2) / num_bytes, rel=1e-5
    )


def test_a_folder_without_a_recipe_asks_for_one(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        evaluation_run.main([str(tmp_path)])
    assert error.value.code == 1
    assert "RECIPE: missing" in capsys.readouterr().err


def _documents(path):
    import zstandard

    with path.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read().decode().splitlines()
