"""The planner compiles what `train.py` runs: both lower to the same module."""

import contextlib

import jax
import pytest

import train
from configs.load import load_recipe
from configs.recipe import TrainRecipe
from tpu import programs
from tpu.mesh import make_mesh
from tpu.settings import choices


class Seen(Exception):
    """Stops a run where its step would be compiled."""


def test_the_planner_lowers_what_train_runs(tmp_path, sample_streams, monkeypatch):
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"""
run_dir: {tmp_path}/run
tokenizer: {sample_streams}/tokenizer
model: {{vocab_size: 800, embed_dim: 32, mlp_dim: 64, num_layers: 2, num_heads: 4, num_kv_heads: 2, head_dim: 8}}
streams:
  biomedicine: {{path: {sample_streams}/biomedicine}}
  instructions: {{path: {sample_streams}/instructions}}
train: {{num_steps: 7, seq_len: 128, global_batch_rows: 16, accumulate: 2, z_loss: 0.001, compute_dtype: float32}}
optimizer: {{weight_decay: 0.2, clip_norm: null}}
mesh: {{fsdp: 4, tensor: 2}}
tracking: {{tensorboard: false}}
"""
    )
    texts = []

    def stop(self, *_, **__):
        texts.append(self.as_text())
        raise Seen

    monkeypatch.setattr(jax.stages.Lowered, "compile", stop)
    recipe = load_recipe(TrainRecipe, str(file))
    with contextlib.ExitStack() as stack, pytest.raises(Seen):
        train.train(recipe, stack)
    mesh = make_mesh(recipe.mesh)
    (settled,) = choices(recipe.train, programs.model_of(recipe), recipe.mesh, mesh)
    planned = programs.train_step(recipe, settled, mesh).traced.lower().as_text()
    assert texts == [planned]
