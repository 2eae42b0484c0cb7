"""Adapters: they begin as nothing, train alone, and leave as weights or as a folder that PEFT loads."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from evaluation.source import open_model
from model import lora
from model.config import LoraConfig
from model.export import export_run
from model.llama import abstract_params, forward, init_params, num_params
from tests.training.layouts import CONFIG as NETWORK
from tests.training.layouts import one_device
from training.layers import LayerReader
from training.step import model_flops

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 94, (2, 16)), jnp.int32)


def with_adapters(**fields):
    return NETWORK.model_copy(update={"lora": LoraConfig(base_dtype="float32", **fields)})


def disturbed(params, config):
    """As after some training: both halves of every pair are other than at the start."""
    trained, frozen = lora.split(params)
    keys = iter(jax.random.split(jax.random.key(3), len(jax.tree.leaves(trained))))
    moved = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(next(keys), x.shape), trained)
    return lora.join(moved, frozen)


def test_at_the_start_they_change_nothing():
    config = with_adapters(rank=4)
    params = init_params(config, jax.random.key(0))
    _, frozen = lora.split(params)
    ours, plain = forward(params, config, TOKENS), forward(frozen, NETWORK, TOKENS)
    np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize("targets", [("q", "v"), ("o", "down"), LoraConfig().targets])
def test_merged_weights_compute_the_same(targets):
    config = with_adapters(rank=4, alpha=8, targets=targets)
    params = disturbed(init_params(config, jax.random.key(0)), config)
    merged = lora.merge(params, config)
    expected = forward(params, config, TOKENS)
    np.testing.assert_allclose(forward(merged, NETWORK, TOKENS), expected, atol=5e-6)
    _, frozen = lora.split(params)
    assert np.abs(forward(frozen, NETWORK, TOKENS) - expected).max() > 0.01
    assert {path for path in _names(params) if path.endswith("_lora")} == {
        f"{name}_lora" for name in targets
    }


def _names(params):
    return [name for block in ("attn", "mlp") for name in params["blocks"][block]]


def test_what_is_trained_and_what_is_frozen():
    config = NETWORK.model_copy(update={"lora": LoraConfig(rank=4)})
    shapes = abstract_params(config)
    trained, frozen = lora.split(shapes)
    assert sum(x.size for x in jax.tree.leaves(trained)) == lora.num_trained(config)
    assert {x.dtype.name for x in jax.tree.leaves(trained)} == {"float32"}
    kinds = {path[-1].key: x.dtype.name for path, x in jax.tree_util.tree_leaves_with_path(frozen)}
    assert kinds.pop("scale") == "float32"
    assert set(kinds.values()) == {"bfloat16"}
    assert jax.tree.structure(lora.join(trained, frozen)) == jax.tree.structure(shapes)
    assert lora.split(abstract_params(NETWORK)) == (abstract_params(NETWORK), {})
    assert num_params(config) == num_params(NETWORK), "as published: without adapters"


def test_flops_of_a_step():
    """Frozen matrices have no gradient of their own; attention's passes and the adapters are whole."""
    rows, length = 2, 16
    plain, ours = (model_flops(c, rows, length) for c in (NETWORK, with_adapters(rank=4)))
    N, H, L = NETWORK.num_heads, NETWORK.head_dim, NETWORK.num_layers
    attention = 6 * L * rows * length**2 * N * H
    adapters = 6 * rows * length * lora.num_trained(with_adapters(rank=4))
    assert ours == pytest.approx((plain - attention) * 2 / 3 + attention + adapters)


# --- a run, from a Hugging Face folder to one --------------------------------------------------------------


@pytest.fixture(scope="module")
def job(sample_streams, tmp_path_factory):
    """`job(run_dir, key=value, ...)` trains; `job.base` is the folder that all begin with."""
    folder = tmp_path_factory.mktemp("lora")
    names = ("biomedicine", "instructions")
    recipe = {
        "run_dir": str(folder / "base"),
        "tokenizer": str(sample_streams / "tokenizer"),
        "streams": {name: {"path": str(sample_streams / name)} for name in names},
        "train": {
            "num_steps": 6,
            "seq_len": 128,
            "global_batch_rows": 8,
            "compute_dtype": "float32",
        },
        "mesh": {"fsdp": 1, "data": 8},
        "optimizer": {"peak_lr": 1e-2, "warmup_steps": 1},
        "checkpoint": {"every_steps": 3},
        "eval": {"every_steps": 6, "max_rows": 8},
        "tracking": {"every_steps": 1, "tensorboard": False},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    shape = {"num_layers": 2, "embed_dim": 64, "mlp_dim": 96, "num_heads": 4, "num_kv_heads": 2}

    def run(name, *overrides):
        return train.main([str(path), f"run_dir={folder / name}", *overrides])

    shape = json.dumps({"preset": "tiny", "head_dim": 16, **shape})
    assert (
        run("base", f"model={shape}", "train.num_steps=0", f"export.out={folder / 'base_hf'}") == 0
    )
    run.folder, run.base = folder, folder / "base_hf"
    return run


BEGIN = ("model.lora={rank: 4, targets: [q, k, v, o, gate, up, down]}",)


@pytest.fixture(scope="module")
def adapted(job):
    """A run of six steps from the base's folder."""
    assert job("adapted", f"model.init_from={job.base}", *BEGIN) == 0
    return job.folder / "adapted"


def arrays(run_dir, step):
    reader = LayerReader(str(run_dir), step)
    return {key: reader.read(key) for key in reader.keys()}  # noqa: SIM118


@pytest.mark.slow
def test_the_frozen_weights_stay_and_only_adapters_have_moments(job, adapted):
    begun, ended = arrays(adapted, 0), arrays(adapted, 6)
    base = arrays(job.folder / "base", 0)
    for key, value in ended.items():
        same = value.tobytes() == begun[key].tobytes()
        assert same == ("_lora/" not in key), key
        if "_lora/" not in key:
            np.testing.assert_array_equal(value, base[key].astype(value.dtype))
    moments = LayerReader(str(adapted), 6).meta["arrays"]
    matrices = [k for k, (shape, _) in moments.items() if k.startswith("opt_state/") and shape]
    assert matrices
    assert all("_lora/" in key for key in matrices)
    losses = [
        json.loads(line).get("loss")
        for line in (adapted / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [x for x in losses if x is not None]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(job, adapted):
    shutil.copytree(adapted, job.folder / "stopped")
    shutil.rmtree(job.folder / "stopped/checkpoints/6")
    assert job("stopped", f"model.init_from={job.base}", *BEGIN) == 0
    ours, theirs = arrays(job.folder / "stopped", 6), arrays(adapted, 6)
    for key in theirs:
        assert ours[key].tobytes() == theirs[key].tobytes(), key


@pytest.mark.slow
def test_another_run_may_begin_with_it_or_with_a_run_without(job, adapted, capsys):
    assert job("further", f"model.init_from={adapted}", "train.num_steps=0") == 0
    ours, theirs = arrays(job.folder / "further", 0), arrays(adapted, 6)
    assert all(ours[key].tobytes() == theirs[key].tobytes() for key in theirs)

    assert (
        job("from_run", f"model.init_from={job.folder / 'base'}", *BEGIN, "train.num_steps=0") == 0
    )
    ours, theirs = arrays(job.folder / "from_run", 0), arrays(adapted, 0)
    assert all(ours[key].tobytes() == theirs[key].tobytes() for key in theirs)

    with pytest.raises(SystemExit):
        job("other", f"model.init_from={adapted}", "model.lora.rank=8")
    assert "model.lora: " in (said := capsys.readouterr().err)
    assert "export that run" in said


@pytest.mark.slow
def test_it_leaves_as_weights_and_as_a_folder_for_peft(job, adapted, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    report = export_run(str(adapted), str(tmp_path / "hf"), dtype="f32")
    assert report["passed"]
    assert report["against"].startswith("transformers")
    assert "low-rank adapters (rank 4" in (tmp_path / "hf/README.md").read_text()
    export_run(str(adapted), str(tmp_path / "adapter"), adapter=True)
    with pytest.raises(ValueError, match="--adapter: this run trained the weights themselves"):
        export_run(str(job.folder / "base"), str(tmp_path / "none"), adapter=True)

    def load(folder):
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    tokens = np.random.default_rng(0).integers(5, 300, (2, 24))
    ids = torch.as_tensor(tokens)
    with torch.no_grad():
        merged = load(tmp_path / "hf")(ids).logits.numpy()
        begun = load(job.base)
        before = begun(ids).logits.numpy()
        beside = peft.PeftModel.from_pretrained(begun, tmp_path / "adapter")(ids).logits.numpy()
    np.testing.assert_allclose(beside, merged, atol=2e-5)
    assert np.abs(before - merged).max() > 1e-3

    model = open_model(str(adapted), one_device())
    assert model.config.lora is None
    ours = forward(model.params, model.config, jnp.asarray(tokens, jnp.int32))
    np.testing.assert_allclose(ours, merged, atol=2e-5)
