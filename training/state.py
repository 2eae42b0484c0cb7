"""Where a run's first state comes from: own checkpoint > another run > given weights > random.

This order stands here and nowhere else.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import optax
from etils import epath
from jax.sharding import Mesh, NamedSharding

from model.config import LlamaConfig
from model.llama import Params, abstract_params, init_params, param_names
from model.lora import freeze, join, split, without
from tpu.mesh import param_specs
from training.checkpoint import Checkpointer, Restored
from training.config import CheckpointConfig, ResumeConfig
from training.optimizer import state_shardings
from training.step import State
from training.steps import newest_meta


@dataclass(frozen=True)
class Layout:
    """How a state lies on a mesh, before any array exists: shapes first, shardings second."""

    config: LlamaConfig
    mesh: Mesh
    tx: optax.GradientTransformation
    specs: Params
    shardings: State  # of NamedSharding
    abstract: State  # of ShapeDtypeStruct with shardings


@dataclass(frozen=True)
class Start:
    """A state to begin from. `meta` is that of the checkpoint it was restored from, if it was."""

    state: State
    step: int
    meta: dict[str, Any] | None
    origin: str
    imported: bool = False  # weights from elsewhere: write them down as step 0
    rejected: dict[int, str] = field(default_factory=dict)  # damaged steps that were passed over


def layout(config: LlamaConfig, tx: optax.GradientTransformation, mesh: Mesh) -> Layout:
    """Shapes and shardings of weights and optimizer state."""
    shapes = abstract_params(config)
    specs = param_specs(param_names(config), shapes, mesh)
    params = jax.tree.map(lambda s, spec: NamedSharding(mesh, spec), shapes, specs)
    trained, _ = split(shapes)
    shardings = State(params, state_shardings(tx, trained, split(params)[0]))
    abstract = jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        State(shapes, jax.eval_shape(tx.init, trained)),
        shardings,
    )
    return Layout(config, mesh, tx, specs, shardings, abstract)


def state_bytes(plan: Layout) -> int:
    """Bytes of weights and optimizer state on one device."""

    def one(x: jax.ShapeDtypeStruct) -> int:
        return int(jax.numpy.dtype(x.dtype).itemsize) * math.prod(x.sharding.shard_shape(x.shape))

    return sum(one(x) for x in jax.tree.leaves(plan.abstract))


def first_state(
    plan: Layout,
    checkpointer: Checkpointer,
    resume: ResumeConfig,
    *,
    init_from: str | None,
    revision: str | None,
    seed: int,
) -> Start:
    """The state a run begins or goes on with.

    1. the run's own newest good checkpoint
    2. the newest good checkpoint of `resume.from_run`, optimizer state included
    3. the weights of `init_from`: a run directory, or a Hugging Face folder or hub id
    4. random weights from `seed`
    """
    own = checkpointer.restore_newest(plan.abstract.params, plan.abstract.opt_state)
    if own is not None:
        return _restored(plan, own, f"step {own.step} of this run")
    if resume.from_run is not None:
        other = _restore_from("resume.from_run", resume.from_run, plan)
        return _restored(plan, other, f"step {other.step} of {resume.from_run}")
    if init_from is not None and is_run(init_from):
        begins = plan.config.lora is not None and not _has_adapters(init_from)
        wanted = layout(without(plan.config), plan.tx, plan.mesh) if begins else plan
        other = _restore_from("model.init_from", init_from, wanted, weights_only=True)
        params = _with_adapters(plan, _held(plan, other.params), seed) if begins else other.params
        return _fresh(plan, params, f"weights of {init_from}, step {other.step}", True)
    if init_from is not None:
        from model.huggingface.load import load_params

        lora = plan.config.lora
        try:
            params = load_params(
                init_from,
                without(plan.config),
                plan.specs,
                plan.mesh,
                revision=revision,
                dtype="float32" if lora is None else lora.base_dtype,
            )
        except ValueError as error:
            raise ValueError(f"model.init_from: {error}") from error
        return _fresh(plan, _with_adapters(plan, params, seed), f"weights of {init_from}", True)
    init = jax.jit(lambda key: init_params(plan.config, key), out_shardings=plan.shardings.params)
    return _fresh(plan, init(jax.random.key(seed)), f"random weights, seed {seed}", False)


def is_run(path: str) -> bool:
    """Whether a path is a run directory with checkpoints, not a Hugging Face folder or hub id."""
    return (epath.Path(path) / "checkpoints").is_dir()


def _has_adapters(run_dir: str) -> bool:
    meta = newest_meta(run_dir)
    return meta is not None and meta["model"].get("lora") is not None


def _with_adapters(plan: Layout, weights: Params, seed: int) -> Params:
    """The network's weights as the run holds them: with adapters that change nothing yet, where it has any."""
    if plan.config.lora is None:
        return weights
    begin = jax.jit(
        lambda key: split(init_params(plan.config, key))[0],
        out_shardings=split(plan.shardings.params)[0],
    )
    return join(begin(jax.random.key(seed)), weights)


def _held(plan: Layout, weights: Params) -> Params:
    """Float32 weights in the dtype that the run holds them in."""
    lora = plan.config.lora
    assert lora is not None, "only adapters freeze weights"
    hold = jax.jit(lambda w: freeze(w, lora), out_shardings=split(plan.shardings.params)[1])
    return hold(weights)


def _restore_from(name: str, run_dir: str, plan: Layout, *, weights_only: bool = False) -> Restored:
    with Checkpointer(run_dir, CheckpointConfig(), read_only=True) as other:
        opt_state = None if weights_only else plan.abstract.opt_state
        found = other.restore_newest(plan.abstract.params, opt_state)
    if found is None:
        raise ValueError(
            f"{name}: {run_dir} holds no good checkpoint; name the run_dir of a run that has saved one"
        )
    return found


def _restored(plan: Layout, found: Restored, origin: str) -> Start:
    if found.opt_state is None:
        fresh = _fresh(plan, found.params, origin, False)
        return Start(fresh.state, found.step, found.meta, origin, rejected=found.rejected)
    state = State(found.params, found.opt_state)
    return Start(state, found.step, found.meta, origin, rejected=found.rejected)


def _fresh(plan: Layout, params: Params, origin: str, imported: bool) -> Start:
    init = jax.jit(plan.tx.init, out_shardings=plan.shardings.opt_state)
    return Start(State(params, init(split(params)[0])), 0, None, origin, imported)
