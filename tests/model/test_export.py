"""From a run directory to a Hugging Face folder: what is written, what is refused, what is never published."""

import json
import shutil

import jax
import numpy as np
import pytest

import model.export
import model.huggingface.names
from data.config import SentencePieceConfig
from data.tokenizer import load_tokenizer, train_sentencepiece
from model.config import LlamaConfig, RopeScaling
from model.export import VerificationError, export_run, main
from model.huggingface.config import read_config
from model.huggingface.load import load_params
from model.huggingface.names import flatten
from model.llama import init_params
from training.checkpoint import Checkpointer
from training.config import CheckpointConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = LlamaConfig(
    vocab_size=420,  # more than the tokenizer's 400
    vocab_multiple=64,
    embed_dim=48,
    mlp_dim=80,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=10,
    max_seq_len=128,
    rope_theta=5e5,
    rope_scaling=RopeScaling(kind="llama3", factor=8.0, original_seq_len=32),
)


@pytest.fixture(scope="session")
def texts(root):
    with (root / "data/sample/biomedicine.jsonl").open() as file:
        return [json.loads(line)["text"] for line in file]


@pytest.fixture(scope="session")
def tokenizer_folder(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_sentencepiece(texts, folder, SentencePieceConfig(vocab_size=400))
    return folder


def params_of(step):
    params = init_params(CONFIG, jax.random.key(step))
    scaled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path[-1].key == "scale" else leaf * 8, params
    )
    return scaled


def stream(folder, texts):
    """What a prepared stream leaves for export to find."""
    import zstandard

    (folder / "heldout").mkdir(parents=True)
    (folder / "documents").mkdir()
    lines = []
    for i, text in enumerate(texts):
        turns = [{"role": "user", "text": text[:80]}, {"role": "assistant", "text": text[80:]}]
        lines.append(json.dumps({"id": f"{i:016x}", "turns": turns, "source": "x", "meta": {}}))
    half = len(lines) // 2
    for name, part in (("heldout/documents", lines[:half]), ("documents/part-00000", lines[half:])):
        with zstandard.open(folder / f"{name}.jsonl.zst", "wt", encoding="utf-8") as file:
            file.write("\n".join(part) + "\n")
    info = {"num_rows": 10, "tokens": 1000}
    (folder / "stream.json").write_text(json.dumps(info))
    (folder / "card.json").write_text(json.dumps({"documents_in": 90, "licences": ["CC BY 4.0"]}))
    settings = {"convert": "conversation", "chat": {"template": "llama2", "train_on": "all"}}
    (folder / "run.json").write_text(json.dumps({"settings": settings}))


@pytest.fixture(scope="session")
def finished(texts, tokenizer_folder, tmp_path_factory):
    """A run with two checkpoints, as train.py leaves it."""
    root = tmp_path_factory.mktemp("run")
    stream(root / "stream", texts)
    run = root / "run"
    recipe = {
        "model": {"init_from": None},
        "train": {"seq_len": 128, "compute_dtype": "bfloat16"},
        "optimizer": {"peak_lr": 1e-4, "schedule": "cosine"},
        "streams": {"reading": {"path": str(root / "stream"), "weight": 1.0}},
    }
    with Checkpointer(str(run), CheckpointConfig()) as checkpointer:
        for step in (1, 2):
            meta = {
                "rows": 8 * step,
                "counts": {"reading": 8 * step},
                "recipe": recipe,
                "data": {},
                "model": CONFIG.model_dump(mode="json"),
                "tokenizer": {"fingerprint": "x", "add_bos": True, "add_eos": True},
            }
            checkpointer.save(step, params_of(step), None, meta, wait=True)
    load_tokenizer(tokenizer_folder).save(run / "tokenizer")
    lines = [
        {"step": 0, "eval/reading/loss": 5.0, "eval/reading/bits_per_byte": 2.5},
        {"step": 1, "loss": 4.5},
        {"step": 2, "eval/reading/loss": 4.0, "eval/reading/bits_per_byte": 2.0},
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "eval')
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def parity(folder):
    return json.loads((folder / "parity.json").read_text())


def flip_bit(run, step):
    """In the largest file of a step's weights, in the middle of its data."""
    folder = run / "checkpoints" / str(step) / "params"
    files = [f for f in folder.rglob("*") if f.is_file() and f.parent.name == "d"]
    file = max(files, key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_run_becomes_a_verified_folder(run, texts, dtype, tmp_path, capsys):
    out = tmp_path / "hf"
    assert main([str(run), str(out), "--dtype", dtype]) == 0
    assert {p.name for p in out.iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "parity.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    assert "verified against transformers" in capsys.readouterr().out
    report = parity(out)
    assert report["passed"]
    assert report["step"] == 2
    assert report["weights"]["bitwise_equal"]
    assert report["logits"]["max_abs_difference"] <= 2e-4
    assert report["logits"]["largest_logit"] > 1
    assert report["logits"]["top1_agreement"] == 1
    assert report["greedy"]["equal"]
    assert report["greedy"]["tokens"] > 0
    assert report["tokenizer"]["different"] == 0
    assert report["tokenizer"]["documents"] > len(texts)
    assert report["tokenizer"]["conversations"] > 100

    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["vocab_size"] == 420
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    generation = transformers.GenerationConfig.from_pretrained(out)
    assert (generation.bos_token_id, generation.eos_token_id) == (1, 2)

    # What was trained is what a new run starts from.
    again = flatten(
        load_params(str(out), read_config(str(out)).model_copy(update={"vocab_multiple": 64}))
    )
    for key, leaf in flatten(params_of(2)).items():
        value = np.asarray(leaf) + np.float32(0)  # the padding's zeros come back without a sign
        if dtype == "bf16":
            import ml_dtypes

            value = value.astype(ml_dtypes.bfloat16).astype(np.float32)
        assert np.asarray(again[key]).tobytes() == value.tobytes(), key

    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    for said in (
        "5.0000 → 4.0000",
        "2.5000 → 2.0000",
        "| reading | 1.0 | 16 | 1,600 |",
        "CC BY 4.0",
    ):
        assert said in card


def test_files_are_dealt_as_transformers_deals_them(run, tmp_path):
    out = tmp_path / "hf"
    main([str(run), str(out), "--dtype", "f32", "--max_shard_size", "50KB"])
    report = parity(out)
    assert report["passed"]
    assert "one layer at a time" in report["how"]
    assert report["greedy"]["left_out"]
    shape = transformers.AutoConfig.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    index = "model.safetensors.index.json"
    ours, theirs = (json.loads((f / index).read_text()) for f in (out, tmp_path / "theirs"))
    assert ours == theirs
    assert len(set(ours["weight_map"].values())) > 5


def test_without_torch_our_own_network_judges(run, tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )
    for name, size in (("whole", "5GB"), ("layers", "50KB")):
        report = export_run(str(run), str(tmp_path / name), max_shard_size=size)
        assert "torch is not installed" in report["against"]
        assert report["passed"]
        assert report["logits"]["max_abs_difference"] <= 1e-5


def test_an_earlier_export_is_replaced_and_nothing_else(run, tmp_path):
    out = tmp_path / "hf"
    export_run(str(run), str(out), step=1, max_shard_size="50KB")
    export_run(str(run), str(out))
    assert parity(out)["step"] == 2
    assert not list(out.glob("model-*"))
    assert {p.name for p in tmp_path.iterdir()} == {"hf", "run"}  # nothing is left lying about

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files"):
        export_run(str(run), str(mine))
    assert (mine / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max_shard_size", "5 bananas"], "max_shard_size: '5 bananas' is no size"),
        (["--step", "7"], "no checkpoint of step 7; steps there: 1, 2"),
    ],
)
def test_bad_arguments_give_one_message(run, argv, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(run), str(tmp_path / "hf"), *argv])
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


def test_a_folder_that_is_no_run(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(tmp_path / "hf")])
    assert "holds no checkpoint" in capsys.readouterr().err


def test_a_damaged_step_is_named_and_the_one_before_used(run, tmp_path, capsys):
    flip_bit(run, 2)
    out = tmp_path / "hf"
    report = export_run(str(run), str(out))
    said = capsys.readouterr().out
    assert report["step"] == parity(out)["step"] == 1
    assert "step 2" in said
    assert "array params/" in said
    assert "digest" in said
    assert "using step 1" in said
    expected = np.asarray(params_of(1)["final_norm"]["scale"])
    assert np.array_equal(
        load_params(str(out), read_config(str(out)))["final_norm"]["scale"], expected
    )
    # Known from now on, and said again.
    export_run(str(run), str(out))
    assert "step 2 is damaged" in capsys.readouterr().out


def test_a_damaged_step_that_was_asked_for_is_an_error(run, tmp_path):
    flip_bit(run, 2)
    for _ in range(2):  # found, then remembered
        with pytest.raises(ValueError, match="step 2 .*damaged"):
            export_run(str(run), str(tmp_path / "hf"), step=2)
        assert {p.name for p in tmp_path.iterdir()} == {"run"}


class FakeHub:
    """Stands for huggingface_hub.HfApi."""

    calls: list = []  # noqa: RUF012

    def create_repo(self, name, exist_ok):
        self.calls.append(("create", name))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        from pathlib import Path

        self.calls.append(("upload", repo_id, sorted(p.name for p in Path(folder_path).iterdir())))


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    return FakeHub.calls


def test_push_after_verification(run, tmp_path, hub):
    export_run(str(run), str(tmp_path / "hf"), push="org/name")
    assert [call[:2] for call in hub] == [("create", "org/name"), ("upload", "org/name")]
    assert {"README.md", "parity.json", "model.safetensors", "tokenizer.json"} <= set(hub[1][2])
    assert parity(tmp_path / "hf")["pushed"] == "org/name"


def spoil_bytes(monkeypatch):
    """One bit of one written tensor."""
    write = model.export.write_weights

    def spoiled(read, planned, folder):
        write(read, planned, folder)
        file = folder / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes(bytes(data))

    monkeypatch.setattr(model.export, "write_weights", spoiled)
    return "weights: lm_head.weight differ"


def spoil_names(monkeypatch):
    """The table names gate and up the wrong way round: what is read back is bit for bit what was meant."""
    table = dict(model.huggingface.names.HF_NAMES)
    gate, up = table["blocks/mlp/gate"], table["blocks/mlp/up"]
    monkeypatch.setitem(model.huggingface.names.HF_NAMES, "blocks/mlp/gate", up)
    monkeypatch.setitem(model.huggingface.names.HF_NAMES, "blocks/mlp/up", gate)
    return "logits: differ by up to"


def spoil_rope(monkeypatch):
    """config.json says another theta than the weights were trained with."""
    import model.huggingface.config as config

    write = config.to_huggingface

    def spoiled(*args, **kwargs):
        written = write(*args, **kwargs)
        written["rope_parameters"]["rope_theta"] = written["rope_theta"] = 1e4
        return written

    monkeypatch.setattr(model.export, "to_huggingface", spoiled)
    return "config.json: reads back with other rope_theta"


def spoil_tokenizer(monkeypatch):
    import model.huggingface.tokenizer as tokenizer

    normalizer = tokenizer._normalizer
    monkeypatch.setattr(
        tokenizer,
        "_normalizer",
        lambda spec: {"type": "Sequence", "normalizers": normalizer(spec)["normalizers"][1:]},
    )
    return "tokenizer: transformers gives other ids"


@pytest.mark.parametrize("spoil", [spoil_bytes, spoil_names, spoil_rope, spoil_tokenizer])
def test_what_differs_is_never_published(run, tmp_path, monkeypatch, hub, spoil, capsys):
    message = spoil(monkeypatch)
    out = tmp_path / "hf"
    with pytest.raises(VerificationError, match=message):
        export_run(str(run), str(out), push="org/name")
    assert not out.exists()
    assert hub == []
    report = parity(tmp_path / "hf.failed")
    assert not report["passed"]
    assert any(message in problem for problem in report["problems"])
    with pytest.raises(SystemExit) as stopped:
        main([str(run), str(out)])
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err


def test_a_folder_in_object_storage_is_replaced_whole(tmp_path):
    import fsspec

    fs = fsspec.filesystem("memory")
    for name, content in (("model-00001-of-00002.safetensors", b"old"), ("config.json", b"old")):
        fs.pipe_file(f"/bucket/hf/{name}", content)
    staged = tmp_path / "staged"
    staged.mkdir()
    for name in ("model.safetensors", "config.json", "parity.json"):
        (staged / name).write_text("new")
    model.huggingface.folder.publish(staged, "memory://bucket/hf")
    found = {p.split("/")[-1]: fs.cat_file(p) for p in fs.find("/bucket/hf")}
    assert found == dict.fromkeys(("model.safetensors", "config.json", "parity.json"), b"new")
    fs.rm("/bucket", recursive=True)


def test_a_run_without_a_tokenizer(run, tmp_path):
    shutil.rmtree(run / "tokenizer")
    report = export_run(str(run), str(tmp_path / "hf"))
    assert report["passed"]
    assert report["tokenizer"] is None
    assert json.loads((tmp_path / "hf/config.json").read_text())["eos_token_id"] is None
