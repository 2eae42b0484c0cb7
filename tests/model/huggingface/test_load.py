"""Weights from folders: sharded arrays, other file kinds, and everything that can be wrong with them."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import safetensors.numpy

from model.config import LlamaConfig
from model.huggingface import names
from model.huggingface.config import read_config, to_huggingface
from model.huggingface.load import load_params

CONFIG = LlamaConfig(
    vocab_size=50,
    vocab_multiple=8,
    embed_dim=16,
    mlp_dim=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    attention_bias=True,
)


def random_tensors(config, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return {
        t.name: rng.standard_normal(t.shape).astype(np.float32).astype(dtype)
        for t in names.tensors(config)
    }


def save(folder, tensors):
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return str(folder)


def expected(config, tensors):
    """Our tree, built whole and the plain way."""
    found = {}
    for t in names.tensors(config):
        value = names.to_ours(tensors[t.name].astype(np.float32), t.layout, t.ours)
        if t.key in names.VOCAB_DIMS:
            pad = [(0, 0)] * value.ndim
            pad[names.VOCAB_DIMS[t.key]] = (0, config.padded_vocab_size - config.vocab_size)
            value = np.pad(value, pad)
        found.setdefault(t.key, []).append(value)
    return {k: np.stack(v) if k.startswith("blocks/") else v[0] for k, v in found.items()}


def assert_same(params, config, tensors):
    flat, wanted = names.flatten(params), expected(config, tensors)
    assert set(flat) == set(wanted)
    for key, value in wanted.items():
        assert flat[key].dtype == np.float32
        np.testing.assert_array_equal(np.asarray(flat[key]), value, err_msg=key)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_float_type_becomes_float32(dtype, tmp_path):
    import ml_dtypes

    tensors = random_tensors(CONFIG, getattr(np, dtype, None) or ml_dtypes.bfloat16)
    assert_same(load_params(save(tmp_path, tensors), CONFIG), CONFIG, tensors)


def test_read_slice_equals_slicing_the_whole():
    rng = np.random.default_rng(0)
    tensors = random_tensors(CONFIG)
    whole = expected(CONFIG, tensors)
    for t in names.tensors(CONFIG):
        ours = whole[t.key] if t.layer is None else whole[t.key][t.layer]
        for _ in range(20):
            index = []
            for n in ours.shape:
                start = int(rng.integers(0, n))
                index.append(slice(start, int(rng.integers(start, n)) + 1))
            part = names.read_slice(lambda box, t=t: tensors[t.name][box], t, tuple(index))
            np.testing.assert_array_equal(part, ours[tuple(index)], err_msg=f"{t.name} {index}")


def test_all_that_is_wrong_is_listed_at_once(tmp_path):
    tensors = random_tensors(CONFIG)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.mlp.extra.weight"] = np.zeros((2, 2), np.float32)
    tensors["model.norm.weight"] = np.zeros(17, np.float32)
    tensors["lm_head.weight"] = np.zeros((50, 16), np.float64)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(3, np.float32)  # harmless
    with pytest.raises(ValueError) as error:
        load_params(save(tmp_path, tensors), CONFIG)
    message = str(error.value)
    assert "missing: model.layers.1.mlp.up_proj.weight" in message
    assert "unknown: model.layers.0.mlp.extra.weight (2, 2)" in message
    assert "of another shape: model.norm.weight (17,), expected (16,)" in message
    assert "lm_head.weight F64" in message
    assert "inv_freq" not in message


def test_a_spare_head_of_a_tied_model(tmp_path):
    tied = CONFIG.model_copy(update={"tied_head": True})
    tensors = random_tensors(tied)
    spare = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}
    assert_same(load_params(save(tmp_path, spare), tied), tied, tensors)
    spare["lm_head.weight"][3, 3] += 1
    with pytest.raises(ValueError, match=r"unknown: lm_head\.weight"):
        load_params(save(tmp_path, spare), tied)


def test_sharded_files_and_a_missing_one(tmp_path):
    tensors = random_tensors(CONFIG)
    placed = {}
    for i, name in enumerate(sorted(tensors)):
        placed[name] = f"model-{i % 3 + 1:05d}-of-00003.safetensors"
    for file in set(placed.values()):
        part = {n: tensors[n] for n, f in placed.items() if f == file}
        safetensors.numpy.save_file(part, tmp_path / file)
    index = {"metadata": {}, "weight_map": placed}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(load_params(str(tmp_path), CONFIG), CONFIG, tensors)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="names files that are not there: model-00002-of-00003"):
        load_params(str(tmp_path), CONFIG)


def test_cut_short_and_absent(tmp_path):
    folder = save(tmp_path, random_tensors(CONFIG))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_params(folder, CONFIG)
    file.unlink()
    with pytest.raises(ValueError, match="no weights"):
        load_params(folder, CONFIG)
    with pytest.raises(ValueError, match="no such folder"):
        load_params(str(tmp_path / "absent"), CONFIG)


def test_a_hub_id_is_taken_from_the_hubs_cache(tmp_path, monkeypatch):
    """What snapshot_download left on this machine serves without a network; what is not there is an error."""
    import huggingface_hub.constants

    tensors = random_tensors(CONFIG)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    save(snapshot, tensors)
    config = to_huggingface(CONFIG, dtype="float32", bos_id=1, eos_id=2, pad_id=None)
    (snapshot / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert read_config("org/name").embed_dim == CONFIG.embed_dim
    assert_same(load_params("org/name", CONFIG), CONFIG, tensors)
    for call in (read_config, lambda name: load_params(name, CONFIG)):
        with pytest.raises(ValueError, match="org/absent: no such folder, and the Hub says"):
            call("org/absent")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bin_files(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = random_tensors(CONFIG)
    stored = {n: torch.tensor(v).to(getattr(torch, dtype)) for n, v in tensors.items()}
    torch.save(stored, tmp_path / "pytorch_model.bin")
    rounded = {n: v.float().numpy() for n, v in stored.items()}
    assert_same(load_params(str(tmp_path), CONFIG), CONFIG, rounded)


def test_bin_files_hold_no_code(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"model.norm.weight": pytest.approx}, tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        load_params(str(tmp_path), CONFIG)


def test_a_remote_folder_is_read_by_ranges(tmp_path):
    import fsspec

    tensors = random_tensors(CONFIG)
    save(tmp_path, tensors)
    fs = fsspec.filesystem("memory")
    fs.put_file(str(tmp_path / "model.safetensors"), "/weights/model.safetensors")
    from model.huggingface.load import _Remote

    remote = _Remote("memory://weights/model.safetensors")
    assert set(remote.keys()) == set(tensors)
    for name, value in tensors.items():
        part = remote.get_slice(name)
        assert tuple(part.get_shape()) == value.shape
        box = tuple(slice(1, n) for n in value.shape)
        np.testing.assert_array_equal(part[box], value[box])
    fs.rm("/weights", recursive=True)


def run(root, code, *argv, devices=8):
    """Run code in a process of its own: the number of devices is fixed when JAX starts."""
    import os

    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, argv)],
        env=env,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


SHARDED = """
import sys
import jax, numpy as np
from jax.sharding import PartitionSpec as P
sys.path.insert(0, "tests/model/huggingface")
from test_load import CONFIG, expected
import safetensors.numpy
from model.huggingface import names
from model.huggingface.load import load_params
from model.llama import abstract_params, param_names
from tpu.config import MeshConfig
from tpu.mesh import make_mesh, param_specs

folder, address, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
if address != "-":
    jax.distributed.initialize(address, 2, process)
wanted = expected(CONFIG, safetensors.numpy.load_file(folder + "/model.safetensors"))
shapes = abstract_params(CONFIG)
for layout in ({"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}):
    mesh = make_mesh(MeshConfig(**layout))
    specs = param_specs(param_names(CONFIG), shapes, mesh)
    if layout == {"fsdp": 4, "tensor": 2}:  # what the table never does must be right too
        specs["blocks"]["attn"]["v"] = P(None, None, None, "tensor")
        specs["blocks"]["attn_norm"]["scale"] = P("tensor")
    params = names.flatten(load_params(folder, CONFIG, specs, mesh))
    for key, value in wanted.items():
        spec = names.flatten(specs)[key]
        assert params[key].sharding.is_equivalent_to(jax.NamedSharding(mesh, spec), value.ndim), key
        for shard in params[key].addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), value[shard.index], err_msg=key)
print("same")
"""


def test_sharded_over_devices(root, tmp_path):
    folder = save(tmp_path, random_tensors(CONFIG))
    process = run(root, SHARDED, folder, "-", 0)
    out, _ = process.communicate(timeout=300)
    assert out.strip().endswith("same"), out


def test_sharded_over_two_processes(root, tmp_path):
    import socket

    folder = save(tmp_path, random_tensors(CONFIG))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = [run(root, SHARDED, folder, address, i, devices=4) for i in range(2)]
    outs = [process.communicate(timeout=300)[0] for process in both]
    assert all(out.strip().endswith("same") for out in outs), "\n".join(outs)
