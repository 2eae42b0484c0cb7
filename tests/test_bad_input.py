"""Bad input, as it happens: every command answers it with one message and status 1, never with a traceback.

The message says which file, line and field, what is there and what to do. The commands run in this process, since what
counts is what they print and how they leave; the last test starts real ones.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from safetensors.numpy import load_file, save_file

import data.inspect
import data.prepare
import evaluation.run
import model.export
import train
from data.config import SentencePieceConfig
from data.tokenizer import load_tokenizer, train_sentencepiece
from model.config import LlamaConfig
from model.huggingface import names
from model.huggingface.config import to_huggingface
from training.steps import bad_steps, committed_steps, good_steps

TEXT = "Aspirin irreversibly inhibits cyclooxygenase in platelets. " * 4
SHAPE = {"preset": "tiny", "num_layers": 1, "embed_dim": 48, "mlp_dim": 64}

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must refuse its input, and gives the message."""

    def run(main: Callable[[list[str]], object], *argv: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in argv])
        message = the_message(capsys.readouterr().err)
        assert left.value.code == 1, message
        return message

    return run


def the_message(err: str) -> str:
    """The one error in what was printed: the last thing there, and no more than fits a screen."""
    assert "Traceback" not in err, err
    assert err.count("error: ") == 1, err
    message = err.partition("error: ")[2].rstrip("\n")
    assert len(message) < 1500, message
    assert message.count("\n") < 8, message
    return message


@pytest.fixture
def places(
    tmp_path: Path,
    a_file: Path,
    other_tokenizer: Path,
    weights: Path,
    sample_streams: Path,
) -> dict[str, str]:
    """What the words FILE, EMPTY, ... in a command line below stand for."""
    made = {name: tmp_path / name.lower() for name in ("EMPTY", "FOREIGN", "BROKEN", "ALONE")}
    for name in ("EMPTY", "FOREIGN", "BROKEN"):
        made[name].mkdir()
    (made["FOREIGN"] / "thesis.tex").write_text("years of work")
    (made["BROKEN"] / "tokenizer.json").write_text("{")
    shutil.copytree(
        sample_streams / "biomedicine",
        made["ALONE"] / "biomedicine",
        ignore=shutil.ignore_patterns("heldout"),
    )
    found = {
        "FILE": a_file,
        "OTHER": other_tokenizer,
        "WEIGHTS": weights,
        "STREAMS": sample_streams,
    }
    return {name: str(path) for name, path in (made | found).items()}


@pytest.fixture(scope="module")
def a_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regular file: nobody, not even root, can make anything below it."""
    path = tmp_path_factory.mktemp("file") / "file"
    path.write_text("not a folder\n")
    return path


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that no stream here was packed with."""
    folder = tmp_path_factory.mktemp("other")
    texts = [f"{TEXT} {i}" for i in range(50)]
    train_sentencepiece(texts, folder, SentencePieceConfig(vocab_size=320))
    return folder


@pytest.fixture(scope="module")
def weights(sample_streams: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with the streams' tokenizer."""
    folder = tmp_path_factory.mktemp("weights")
    tokenizer = load_tokenizer(str(sample_streams / "tokenizer"))
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        embed_dim=32,
        mlp_dim=48,
        num_layers=1,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
    )
    theirs = to_huggingface(config, dtype="float32", bos_id=1, eos_id=2, pad_id=None)
    written(folder / "config.json", theirs)
    arrays = {t.name: np.zeros(t.shape, np.float32) for t in names.tensors(config)}
    save_file(arrays, folder / "model.safetensors")
    tokenizer.save(folder)
    return folder


def written(path: Path, content: object) -> Path:
    """Puts a text, or a recipe or configuration (JSON is YAML), into a file."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def put_in(words: str, places: dict[str, str]) -> list[str]:
    """A command line with the places' names replaced by their paths."""
    return _filled(words, places).split()


def says(message: str, *parts: str, places: dict[str, str] | None = None) -> None:
    """Every part is in the message."""
    for part in parts:
        assert _filled(part, places or {}) in message, message


def _filled(text: str, places: dict[str, str]) -> str:
    return re.sub(r"\b[A-Z]+\b", lambda word: places.get(word[0], word[0]), text)


# --- preparing ---------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with one good file."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = [json.dumps({"text": f"{i} {TEXT}"}) for i in range(8)]
    written(folder / "good.jsonl", "\n".join(lines))
    return folder


@pytest.fixture
def preparation(corpus: Path, sample_streams: Path, tmp_path: Path) -> Path:
    """A preparation recipe for that folder."""
    recipe = {
        "out_dir": str(tmp_path / "prepared"),
        "tokenizer": str(sample_streams / "tokenizer"),
        "seq_len": 64,
        "heldout": {"fraction": 0},
        "clean": None,
        "workers": 1,
        "corpora": {"articles": {"path": str(corpus), "fields": {"text": "text"}}},
    }
    return written(tmp_path / "prepare.yaml", recipe)


def test_what_cannot_be_read_is_set_aside_counted_and_kept(preparation, corpus, tmp_path, capsys):
    good, empty = json.dumps({"text": TEXT}), json.dumps({"text": " \n"})
    written(corpus / "mixed.jsonl", "\n".join([good, '{"text": "cut of', empty, good, "{}"]))
    (corpus / "picture.jsonl").write_bytes(b"\x89PNG\r\n\0\0\0\rIHDR")
    (corpus / "latin.jsonl").write_bytes('{"text": "fièvre"}\n'.encode("latin-1"))
    data.prepare.main([str(preparation)])
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split()[-1] == "5", printed
    folder = tmp_path / "prepared" / "articles"
    with (folder / "set_aside.jsonl.zst").open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read().decode()
    aside = {item["place"]: item for item in map(json.loads, text.splitlines())}
    reasons = {Path(place).name: item["reason"].split(":")[0] for place, item in aside.items()}
    assert reasons == {
        "latin.jsonl:1": "not UTF-8",
        "mixed.jsonl:2": "broken JSON",
        "mixed.jsonl:3": "empty document",
        "mixed.jsonl:5": "field missing",
        "picture.jsonl:1": "binary file",
    }
    assert aside[f"{corpus}/mixed.jsonl:2"]["excerpt"] == '{"text": "cut of'
    card = json.loads((folder / "card.json").read_text())
    assert sum(card["removed"]["read"].values()) == 5
    assert (card["documents_in"], card["documents_out"]) == (15, 10)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            "corpora.articles.fields.text=txet",
            "corpus/good.jsonl:1: corpora.articles.fields.text|no field 'txet'|did you mean text?",
        ),
        (
            "corpora.articles.path=/nowhere/a.jsonl",
            "corpora.articles.path: /nowhere/a.jsonl does not exist",
        ),
        ("corpora.articles.path=EMPTY", "corpora.articles.path: EMPTY has no files to read"),
        ("corpora.articles.path=FILE", "corpora.articles.path: the name of FILE|set format"),
        (
            "corpora.articles.format=tfds corpora.articles.path=no_such_set",
            "corpora.articles.path: no_such_set (split train) cannot be read as a TFDS data set",
        ),
        (
            "corpora.articles.convert=conversation",
            "corpora.articles.convert: conversation, but the documents are running text|convert: raw",
        ),
        ("tokenizer=/nowhere/a.model", "tokenizer: /nowhere/a.model does not exist; name a"),
        ("tokenizer=FILE", "tokenizer: FILE is not a SentencePiece model"),
        ("tokenizer=EMPTY", "tokenizer: EMPTY has neither tokenizer.json nor tokenizer.model"),
        ("tokenizer=BROKEN", "tokenizer: BROKEN: tokenizer.json cannot be read"),
        (
            "tokenizer=no-such-org/no-such-model",
            "tokenizer: no-such-org/no-such-model is neither a path here nor readable from the hub",
        ),
        ("tokenizer=null", "tokenizer: name one, or set train_tokenizer"),
        (
            "tokenizer=null train_tokenizer.vocab_size=30000",
            "train_tokenizer.vocab_size: 30000 pieces cannot be trained on this text|a value <= ",
        ),
        ("heldout.fraction=0.99", "all 8 documents are held out; lower heldout.fraction (0.99)"),
        ("out_dir=FILE/prepared", "out_dir: FILE/prepared cannot be written|Not a directory"),
        ("out_dir=FILE", "out_dir: FILE cannot be written"),
        (
            "corpora.articles.feilds.text=a",
            "corpora.articles.feilds: unknown; did you mean fields?",
        ),
        ("seq_len", "command line: 'seq_len' is not key.path=value"),
        ("seq_len=many", "command line: seq_len: should be an integer, not 'many'"),
    ],
)
def test_preparing(words, parts, preparation, places, refused):
    message = refused(data.prepare.main, preparation, *put_in(words, places))
    says(message, *parts.split("|"), places=places)


def test_a_mistake_found_by_another_process(preparation, corpus, refused):
    written(corpus / "other.jsonl", '{"body": "x"}\n')
    message = refused(data.prepare.main, preparation, "workers=2")
    says(message, "other.jsonl:1: corpora.articles.fields.text", "no field 'text'", "body")


def test_all_documents_set_aside(preparation, corpus, refused):
    written(corpus / "good.jsonl", '{"text": "cut of\n{"text": ""}\n{"text": ""}\n')
    message = refused(data.prepare.main, preparation)
    says(message, f"corpora.articles.path: {corpus} has no documents")
    says(message, "1 x broken JSON", "2 x empty document")


# --- recipes -----------------------------------------------------------------------------------------------------


def test_a_recipe_that_is_not_there(refused):
    message = refused(train.main, "configs/quikstart.yaml")
    says(message, "configs/quikstart.yaml: no such recipe; did you mean configs/quickstart.yaml")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"\x89PNG\r\n\x1a\n\0\xff", "recipe.yaml: not a text file"),
        (b"run_dir: [a\nseed: 2\n", "recipe.yaml:2: not YAML"),
        (b"- run_dir\n", "recipe.yaml: a recipe is a mapping of keys to values"),
        (b"run_dir: a\nsed: 2\n", "recipe.yaml:2: sed: unknown; did you mean seed?"),
    ],
)
def test_a_recipe_that_is_none(content, part, tmp_path, refused):
    (tmp_path / "recipe.yaml").write_bytes(content)
    says(refused(train.main, tmp_path / "recipe.yaml"), part)


# --- training ----------------------------------------------------------------------------------------------------


def training(folder: Path, sample_streams: Path, **fields: object) -> Path:
    """A training recipe in a folder."""
    recipe = {
        "run_dir": str(folder / "run"),
        "tokenizer": str(sample_streams / "tokenizer"),
        "model": SHAPE,
        "streams": {"biomedicine": {"path": str(sample_streams / "biomedicine")}},
        "train": {
            "num_steps": 4,
            "seq_len": 128,
            "global_batch_rows": 8,
            "compute_dtype": "float32",
        },
        "eval": {"max_rows": 8},
        "tracking": {"tensorboard": False},
    }
    return written(folder / "recipe.yaml", recipe | fields)


@pytest.fixture
def recipe(tmp_path: Path, sample_streams: Path) -> Path:
    """A training recipe without a fault."""
    return training(tmp_path, sample_streams)


PATH = "streams.biomedicine.path"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("optimizer.peek_lr=1", "command line: optimizer.peek_lr: unknown; did you mean peak_lr?"),
        ("train.num_steps=ten", "command line: train.num_steps: should be an integer, not 'ten'"),
        (f"{PATH}=/nowhere/a", "stream biomedicine: /nowhere/a does not exist; run data.prepare"),
        (f"{PATH}=EMPTY", "stream biomedicine: EMPTY is unfinished|run data.prepare to the end"),
        (f"{PATH}=EMPTY prepare=/nowhere/a.yaml", "/nowhere/a.yaml: no such recipe"),
        ("train.seq_len=64", "stream biomedicine|rows of 128 tokens, train.seq_len is 64; set it"),
        ("tokenizer=OTHER", "stream biomedicine|was packed with the tokenizer|OTHER|name the"),
        ("tokenizer=/nowhere/a.model", "tokenizer: /nowhere/a.model does not exist; name a"),
        (
            "tokenizer=/nowhere/a.model prepare=configs/quickstart_data.yaml",
            "tokenizer: /nowhere/a.model",
        ),
        ("tokenizer=FILE", "tokenizer: FILE is not a SentencePiece model"),
        ("run_dir=FILE/run", "run_dir: FILE/run cannot be written"),
        ("run_dir=FILE", "run_dir: FILE cannot be written"),
        ("export.out=FOREIGN", "export.out: FOREIGN holds other files|name another folder"),
        ("export.out=FILE/hf", "export.out: FILE/hf cannot be written: FILE is not a writable"),
        ("model.preset=null model.init_from=/nowhere/a", "model.init_from: /nowhere/a: no such"),
        ("model.init_from=no-such-org/no-model", "model.init_from: no-such-org/no-model: no such"),
        ("model.init_from=/nowhere/a tokenizer=null", "tokenizer: /nowhere/a|model.init_from"),
        ("model.init_from=EMPTY", "model.init_from: EMPTY: has no config.json"),
        ("model.init_from=WEIGHTS", "model.embed_dim: 48, the weights have 32|out."),
        ("resume.from_run=EMPTY", "resume.from_run: EMPTY holds no good checkpoint; name"),
        ("model.vocab_size=100", "model.vocab_size: 100 is smaller than the tokenizer's 800"),
        ("model.head_dim=7", "model.head_dim: 7 is odd; rotary embedding needs an even one"),
        ("model.num_kv_heads=5", "model.num_kv_heads: 5 does not divide num_heads 6"),
        ("mesh.tensor=4", "mesh.tensor: 4 does not divide model.num_kv_heads 6"),
        ("mesh.tensor=3", "mesh: |= 3 does not divide 8 devices; mesh.tensor=3 must|divisor of 8"),
        ("mesh.fsdp=4", "mesh: |'fsdp': 4|there are 8 devices; set mesh.fsdp=-1"),
        (
            "model.embed_dim=50",
            "mesh.fsdp: 8 does not divide embed=50 of parameter blocks/attn|a divisor of 50",
        ),
        (
            "train.global_batch_rows=6",
            "train.global_batch_rows: 6 rows do not divide over 8 devices|take a multiple of 8",
        ),
        ("eval.batch_rows=3", "eval.batch_rows: 3 rows do not divide|take a multiple of 8"),
        ("train.attention=cudnn", "train.attention: cudnn does not work here (|=auto or xla"),
        ("tracking.profile=[4,3]", "tracking.profile: [4, 3] is not [first step, last step]"),
        ("tracking.profile=[3,5]", "tracking.profile: [3, 5] is not|1 to train.num_steps 4"),
        ("mesh.tensor=3 --dry-run", "= 3 does not divide 8 devices"),
        (f"{PATH}=/nowhere/a tokenizer=FILE --dry-run", "tokenizer: FILE is not a"),
    ],
)
def test_training(words, parts, recipe, places, refused):
    message = refused(train.main, recipe, *put_in(words, places))
    says(message, *parts.split("|"), places=places)


def test_heads_of_given_weights_that_the_mesh_cannot_divide(recipe, weights, refused):
    """The recipe alone does not tell: the shape is in the folder."""
    recipe = json.loads(recipe.read_text()) | {"model": {"init_from": str(weights)}}
    recipe = written(Path(recipe["run_dir"]).with_name("from.yaml"), recipe)
    message = refused(train.main, recipe, "mesh.tensor=8", "train.global_batch_rows=1")
    says(message, "mesh.tensor: 8 does not divide kv_heads=2 of parameter blocks/attn/k")


@pytest.mark.parametrize(
    ("harm", "parts"),
    [
        ("missing", "shard rows-train.array_record-00000-of-00001 is missing; run data.prepare"),
        ("truncated", "shard rows-train.array_record-00000-of-00001 has |copy the folder again"),
        ("no description", "stream.json has format None, known is 1"),
        ("broken description", "stream.json is not JSON"),
    ],
)
def test_a_damaged_stream(harm, parts, recipe, sample_streams, tmp_path, refused):
    copy = tmp_path / "copy"
    shutil.copytree(sample_streams / "biomedicine", copy)
    shard = next(copy.glob("rows-*"))
    if harm == "missing":
        shard.unlink()
    elif harm == "truncated":
        shard.write_bytes(shard.read_bytes()[:-100])
    else:
        written(copy / "stream.json", "{}" if harm == "no description" else '{"format": 1, "nam')
    message = refused(train.main, recipe, f"{PATH}={copy}")
    says(message, f"stream biomedicine: {copy}", *parts.split("|"))


@pytest.mark.parametrize(
    ("harm", "parts"),
    [
        (
            "tensors",
            "its tensors are not those of its config.json|missing: model.norm.weight|"
            "unknown: extra (3,)|of another shape: lm_head.weight (3, 4), expected (800, 32)",
        ),
        ("rope", "config.json: rope_parameters.rope_type: 'yarn' is not supported, only default"),
        ("family", "config.json: model_type: 'gpt2' is not one of llama"),
        ("heads", "config.json: num_kv_heads: 3 does not divide num_heads 4"),
        ("config", "config.json: not JSON"),
        ("pointer", "model.safetensors: not a whole safetensors file"),
        ("index", "model.safetensors.index.json: names files that are not there: model-1.saf"),
        ("none", "no weights; looked for model.safetensors and pytorch_model.bin"),
    ],
)
def test_weights_that_cannot_be_taken(harm, parts, recipe, weights, tmp_path, refused):
    copy = tmp_path / "copy"
    shutil.copytree(weights, copy)
    file, config = copy / "model.safetensors", json.loads((copy / "config.json").read_text())
    changed = {
        "rope": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
        "family": {"model_type": "gpt2"},
        "heads": {"num_key_value_heads": 3},
    }
    if harm in changed:
        written(copy / "config.json", config | changed[harm])
    elif harm == "config":
        written(copy / "config.json", "{")
    elif harm == "pointer":
        written(file, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    elif harm == "tensors":
        arrays = load_file(file)
        del arrays["model.norm.weight"]
        arrays |= {"extra": np.zeros(3), "lm_head.weight": np.zeros((3, 4), np.float32)}
        save_file(arrays, file)
    else:
        file.unlink()
        if harm == "index":
            index = {"weight_map": {"model.norm.weight": "model-1.safetensors"}}
            written(copy / "model.safetensors.index.json", index)
    whole = json.loads(recipe.read_text()) | {"model": {"init_from": str(copy)}}
    message = refused(train.main, written(tmp_path / "from.yaml", whole))
    says(message, f"model.init_from: {copy}", *parts.split("|"))


def test_a_loss_that_is_not_finite(recipe, tmp_path, refused):
    """Step 1 makes weights with which step 2 cannot go on, and saves them before that shows."""
    run_dir = str(tmp_path / "run")
    message = refused(train.main, recipe, "optimizer.peak_lr=1e30", "checkpoint.every_steps=1")
    says(message, "step 2: loss", "not saved", "lower optimizer.peak_lr", "float32")
    says(message, "checkpoint of step 1", "begin again in another run_dir")
    assert committed_steps(run_dir) == [1]
    assert good_steps(run_dir) == []
    assert "not finite" in bad_steps(run_dir)[1]
    message = refused(train.main, recipe)
    says(message, "checkpoint step 1", "not finite", "choose another run_dir or delete this one")
    says(refused(model.export.main, run_dir, tmp_path / "hf"), f"RUN: {run_dir}", "damaged: 1")


# --- with a finished run -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(sample_streams: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of four steps, the last two of them profiled."""
    folder = tmp_path_factory.mktemp("trained")
    tracking = {"tensorboard": False, "profile": [3, 4]}
    assert train.main([str(training(folder, sample_streams, tracking=tracking))]) == 0
    return folder / "run"


def test_the_profile_asked_for_is_there(run):
    (trace,) = (run / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000


def test_a_changed_recipe(run, refused):
    message = refused(train.main, run / "recipe.yaml", "optimizer.peak_lr=1e-3", "seed=3")
    says(message, "step 4", "optimizer.peak_lr: 1e-05 -> 0.001", "seed: 0 -> 3")
    says(message, "resume.accept_changes=true")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("EMPTY NEW", "RUN: EMPTY holds no checkpoint to export; name the run_dir"),
        ("/nowhere/run NEW", "RUN: /nowhere/run does not exist"),
        ("TRAINED FOREIGN", "OUT: FOREIGN holds other files|name another folder"),
        ("TRAINED FILE", "OUT: FILE is a file"),
        ("TRAINED FILE/out", "OUT: FILE/out cannot be written"),
        ("TRAINED NEW --step=99", "TRAINED has no checkpoint of step 99; steps there: 4"),
        ("TRAINED NEW --max_shard_size=big", "max_shard_size: 'big' is no size; write it as 500MB"),
    ],
)
def test_exporting(words, parts, run, places, tmp_path, refused):
    places |= {"NEW": str(tmp_path / "new"), "TRAINED": str(run)}
    message = refused(model.export.main, *put_in(words, places))
    says(message, *parts.split("|"), places=places)
    assert os.listdir(places["FOREIGN"]) == ["thesis.tex"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("", "MODEL: missing|usage: "),
        ("EMPTY", "RECIPE: missing; EMPTY has no recipe.yaml|evaluation.run EMPTY RECIPE"),
        ("/nowhere/run", "RECIPE: missing; /nowhere/run has no recipe.yaml"),
        ("EMPTY TRAINED/recipe.yaml", "MODEL: EMPTY: has no config.json"),
        ("/nowhere/run TRAINED/recipe.yaml", "MODEL: /nowhere/run: no such folder"),
        ("TRAINED --step=99", "TRAINED has no checkpoint of step 99; steps there: 4"),
        ("TRAINED --step=last", "--step: 'last' is no step; write a whole number"),
        ("WEIGHTS TRAINED/recipe.yaml --step=3", "--step: WEIGHTS is not a run directory"),
        ("TRAINED --jsom=scores.json", "--jsom: unknown; did you mean json?"),
        (f"TRAINED {PATH}=/nowhere/a", "stream biomedicine: /nowhere/a does not exist"),
        (f"TRAINED {PATH}=ALONE/biomedicine", "streams: no held-out text in biomedicine; name a"),
    ],
)
def test_evaluating(words, parts, run, places, refused):
    places |= {"TRAINED": str(run)}
    message = refused(evaluation.run.main, *put_in(words, places))
    says(message, *parts.split("|"), places=places)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("/nowhere/a", "DIR: /nowhere/a does not exist"),
        ("EMPTY", "DIR: EMPTY holds no finished stream|run data.prepare to its end"),
        ("ALONE", "DIR: no folder `tokenizer` beside ALONE/biomedicine"),
        ("STREAMS/biomedicine --html=FILE/page.html", "FILE/page.html: Not a directory"),
    ],
)
def test_inspecting(words, parts, places, refused):
    message = refused(data.inspect.main, *put_in(words, places))
    says(message, *parts.split("|"), places=places)


def test_a_package_for_object_storage_that_is_not_installed(recipe, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    message = refused(train.main, recipe, "run_dir=gs://bucket/run")
    says(message, "gcsfs", "gs:// paths need pip install -e '.[gcs]'")


# --- real processes ----------------------------------------------------------------------------------------------


def test_a_real_process_leaves_with_status_1(root, recipe, preparation):
    def start(*words: object) -> str:
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(
            command, cwd=root, env=dict(os.environ), capture_output=True, text=True
        )
        assert done.returncode == 1, done
        return the_message(done.stderr)

    says(start("train.py", recipe, "mesh.tensor=3"), "= 3 does not divide 8 devices")
    says(start("-m", "data.prepare", preparation, "tokenizer=/nowhere"), "tokenizer: /nowhere does")
