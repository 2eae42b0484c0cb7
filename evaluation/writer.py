"""An engine that writes with a model that is measured."""

from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding

from data.chat import ChatConfig
from evaluation.source import Model
from model.config import GenerationConfig
from model.engine import Engine
from tpu.mesh import make_mesh
from training.state import layout


def open_writer(
    model: Model,
    devices: Sequence[Any],
    settings: GenerationConfig,
    *,
    chat: ChatConfig | None = None,
) -> Engine:
    """The engine of a model, its weights copied to `devices`, which share heads, mlp and vocabulary.

    Args:
        model: opened on any devices.
        devices: of this process; as many as the kv heads and the padded vocabulary divide by.
        settings: of the engine.
        chat: the template of conversations; default: the model's.
    """
    from tpu.config import MeshConfig

    mesh = make_mesh(MeshConfig(fsdp=1, tensor=len(devices)), list(devices))
    specs = layout(model.config, optax.identity(), mesh).specs
    there = jax.tree.map(
        lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), model.params, specs
    )
    return Engine(
        there,
        model.config,
        model.tokenizer,
        settings,
        chat=chat or model.chat,
        add_bos=model.add_bos,
        stop_tokens=model.stop_tokens,
        mesh=mesh if len(devices) > 1 else None,
    )
