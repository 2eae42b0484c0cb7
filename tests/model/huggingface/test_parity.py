"""The same numbers as transformers, in both directions, over the shapes that differ in what they exercise."""

import jax
import numpy as np
import pytest

from model.config import LlamaConfig, RopeScaling
from model.huggingface.config import read_config, to_huggingface
from model.huggingface.load import load_params
from model.huggingface.names import flatten
from model.huggingface.save import plan, write_weights
from model.huggingface.streamed import our_logits, their_logits
from model.llama import forward, init_params

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BASE = {
    "vocab_size": 128,
    "embed_dim": 48,
    "mlp_dim": 80,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 4,
    "head_dim": 12,
    "max_seq_len": 64,
}
SHAPES = {
    "mha": {},
    "gqa": {"num_kv_heads": 2},
    "mqa": {"num_kv_heads": 1},
    "tied": {"tied_head": True},
    "rope_linear": {"rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    "rope_llama3": {
        "rope_theta": 5e5,
        "rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_seq_len=16),
    },
    "wide_heads": {"head_dim": 20, "num_kv_heads": 2},
    "narrow_heads": {"head_dim": 10},
    "heads_24": {"head_dim": 24, "num_heads": 2, "num_kv_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True, "num_kv_heads": 2},
    "padded_vocabulary": {"vocab_size": 101, "vocab_multiple": 32},
    "padded_tied": {"vocab_size": 101, "vocab_multiple": 32, "tied_head": True},
    "one_layer": {"num_layers": 1},
    "mistral": {"family": "mistral", "num_kv_heads": 2, "norm_eps": 1e-6},
}
TOLERANCE = 2e-4


def shape(name):
    return LlamaConfig(**BASE | SHAPES[name])


def random_params(config, seed=0):
    """Weights large enough for logits of several units, norms and biases away from their initial values."""
    params = init_params(config, jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def spread(path, leaf):
        name = path[-1].key
        noise = rng.standard_normal(leaf.shape, np.float32)
        if name == "scale":
            return 1 + 0.3 * noise
        if name.endswith("bias"):
            return 0.3 * noise
        return np.asarray(leaf) * 10  # keeps the zero rows of a padded vocabulary

    return jax.tree_util.tree_map_with_path(spread, params)


def write(folder, params, config, dtype="f32", max_shard_size=40_000):
    """A folder as export writes it, without its tokenizer."""
    import json

    flat = {key: np.asarray(leaf) for key, leaf in flatten(params).items()}
    planned = plan(config, dtype=dtype, max_shard_size=max_shard_size)
    write_weights(
        lambda key, layer: flat[key] if layer is None else flat[key][layer], planned, folder
    )
    words = {"f32": "float32", "bf16": "bfloat16"}[dtype]
    theirs = to_huggingface(config, dtype=words, bos_id=1, eos_id=2, pad_id=None)
    (folder / "config.json").write_text(json.dumps(theirs))
    return planned


def tokens(config, length=48):
    return np.random.default_rng(1).integers(0, config.vocab_size, (2, length)).astype(np.int32)


def transformers_logits(folder, tokens):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor(tokens).long()).logits.numpy()


@pytest.mark.parametrize("name", SHAPES)
def test_ours_in_transformers(name, tmp_path):
    config = shape(name)
    params = random_params(config)
    write(tmp_path, params, config)
    ids = tokens(config)
    ours = np.asarray(forward(params, config, ids))
    theirs = transformers_logits(tmp_path, ids)
    assert ours.shape == theirs.shape == (*ids.shape, config.vocab_size)
    assert np.abs(ours).max() > 1  # else the comparison says nothing
    assert np.abs(ours - theirs).max() <= TOLERANCE
    # Layer by layer, from the files, both ways.
    assert np.abs(their_logits(tmp_path, ids) - theirs).max() <= 1e-5
    flat = {key: np.asarray(leaf) for key, leaf in flatten(params).items()}

    def read(tensor):
        from model.huggingface.save import as_written

        leaf = flat[tensor.key]
        return as_written(tensor, leaf if tensor.layer is None else leaf[tensor.layer], "f32")

    assert np.abs(our_logits(config, read, ids) - ours).max() <= 2e-5


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_in_ours_and_back_bitwise(name, tmp_path):
    config = shape(name)
    unpadded = config.model_copy(update={"vocab_multiple": 1})
    write(tmp_path, random_params(unpadded, seed=3), unpadded)  # for its config.json
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(theirs).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    made, back = tmp_path / "made", tmp_path / "back"
    model.save_pretrained(made, max_shard_size="40KB")

    found = read_config(str(made))
    assert found == unpadded.model_copy(update={"init_std": found.init_std})
    params = load_params(str(made), config)
    ids = tokens(config)
    with torch.no_grad():
        expected = model(torch.tensor(ids).long()).logits.numpy()
    logits = np.asarray(forward(params, config, ids))
    assert np.abs(expected).max() > 1
    assert np.abs(logits - expected).max() <= TOLERANCE
    for key, dim in (("embed/table", 0), ("head/kernel", 1)):
        if key in flatten(params):
            rows = np.moveaxis(np.asarray(flatten(params)[key]), dim, 0)
            assert rows.shape[0] == config.padded_vocab_size
            assert not rows[config.vocab_size :].any()

    back.mkdir()
    planned = write(back, params, config)
    stored = _tensors(made)
    again = _tensors(back)
    assert set(stored) == set(again)
    for tensor, value in stored.items():
        assert value.tobytes() == again[tensor].tobytes(), tensor
    # The same files, tensor for tensor, as transformers makes of them.
    made_index, back_index = (_index(folder) for folder in (made, back))
    assert made_index == back_index
    assert len(planned.files) > 1


def test_bfloat16_is_rounded_to_nearest_even(tmp_path):
    import ml_dtypes

    config = shape("gqa")
    params = random_params(config)
    table = np.asarray(params["embed"]["table"]).copy()
    table[0, :6] = [1 + 2**-8, 1 + 3 * 2**-8, -0.0, 1e-40, 3e38, -1 - 2**-9]
    params["embed"]["table"] = table
    write(tmp_path, params, config, dtype="bf16")
    again = flatten(load_params(str(tmp_path), config))
    for key, leaf in flatten(params).items():
        expected = np.asarray(leaf).astype(ml_dtypes.bfloat16).astype(np.float32)
        assert np.asarray(again[key]).tobytes() == expected.tobytes(), key


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_named(bad, tmp_path):
    config = shape("mha")
    params = random_params(config)
    up = np.asarray(params["blocks"]["mlp"]["up"]).copy()
    up[1, 5, 7] = bad
    params["blocks"]["mlp"]["up"] = up
    for dtype in ("f32", "bf16"):
        with pytest.raises(ValueError, match="blocks/mlp/up, layer 1: holds NaN or infinity"):
            write(tmp_path, params, config, dtype=dtype)


def test_large_finite_weights_are_written(tmp_path):
    config = shape("one_layer")
    params = random_params(config)
    scale = np.full(48, 3e38, np.float32)  # their sum overflows
    params["final_norm"]["scale"] = scale
    write(tmp_path, params, config)
    assert np.array_equal(load_params(str(tmp_path), config)["final_norm"]["scale"], scale)


def _tensors(folder):
    import safetensors.numpy

    found = {}
    for file in folder.glob("*.safetensors"):
        found |= safetensors.numpy.load_file(file)
    return found


def _index(folder):
    import json

    return json.loads((folder / "model.safetensors.index.json").read_text())
