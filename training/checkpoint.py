"""Checkpoints: one Orbax commit a step, digests inside it, and restores that trust nothing they did not check.

A step is one `Composite` of "params", "opt_state" (absent where only weights were saved) and "meta" (JSON: recipe,
rows given, data, model, tokenizer, digests). The digests are taken on the devices before the save begins, so there is
no moment at which a committed step has none, and nothing is read back after a save. A restore compares them on
whatever mesh it restores to. A step that cannot be read or whose digests differ is named, recorded in
`checkpoints/bad.json`, never chosen again, and the next older good step is used.

Saving is Orbax's. Reading goes to the same files through TensorStore (`training.layers`): errors then name the array,
no barrier waits for a process whose read failed, and export and restore share one reader.
"""

import importlib.metadata
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from training.config import CheckpointConfig
from training.digest import device_digests, flat_leaves
from training.layers import LayerReader, StoredArrays
from training.steps import (
    FORMAT,
    CorruptCheckpoint,
    bad_steps,
    checkpoints_dir,
    committed_steps,
    forget_bad,
    good_steps,
    read_meta,
    record_bad,
    sealed,
)

__all__ = [
    "Checkpointer",
    "CorruptCheckpoint",
    "LayerReader",
    "Restored",
    "bad_steps",
    "good_steps",
    "read_meta",
]

_CHUNK_BYTES = 16 * 2**20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """A state read back and verified.

    Attributes:
        opt_state: None when the step holds weights only, or when it was not asked for.
        rejected: Newer steps found damaged on the way here, with what was wrong.
    """

    step: int
    params: dict[str, Any]
    opt_state: Any | None
    meta: dict[str, Any]
    rejected: dict[int, str] = field(default_factory=dict)


class Checkpointer:
    """The checkpoints of one run directory; a context manager. Every process makes the same calls.

    Args:
        run_dir: Local or gs:// path; its `checkpoints/` is made when it is not there.
        config: What is kept, and how much host memory a save or restore may hold.
        read_only: For looking at another run: makes, cleans up and deletes nothing, and cannot save.

    Raises:
        ValueError: The directory cannot be made or written.
    """

    def __init__(self, run_dir: str, config: CheckpointConfig, *, read_only: bool = False) -> None:
        self._run_dir, self._config, self._read_only = str(run_dir), config, read_only
        self._root = checkpoints_dir(self._run_dir)
        self._manager: ocp.CheckpointManager | None = None
        self._written: set[int] = set()  # by this object, or what it restored: this run's own past
        if not read_only and jax.process_index() == 0:
            try:
                self._root.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"run_dir: {self._run_dir} cannot be written: {error}") from error
        self._bad = bad_steps(self._run_dir)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self,
        step: int,
        params: dict[str, Any],
        opt_state: Any | None,
        meta: Mapping[str, Any],
        *,
        wait: bool = False,
    ) -> None:
        """Writes a step in the background; the arrays may be donated as soon as this returns.

        Saving a step that this run has already written does nothing. A damaged step of the same number, or one left
        by a timeline that was rolled back, is deleted first.

        Args:
            step: Steps done.
            params: Tree of arrays.
            opt_state: Any tree of arrays; None saves weights only.
            meta: JSON values. `format`, `step`, `arrays`, `digests`, `versions` are added.
            wait: Return when the step is committed.

        Raises:
            ValueError: A leaf is no `jax.Array`, or has a type without digest.
            Exception: An earlier save in the background failed.
        """
        if self._read_only:
            raise ValueError(f"{self._run_dir} was opened read-only; a step cannot be saved")
        items = {"params": params} | ({} if opt_state is None else {"opt_state": opt_state})
        arrays = flat_leaves(items)
        for key, leaf in arrays.items():
            if not isinstance(leaf, jax.Array):
                raise ValueError(f"{key}: a checkpoint holds jax.Array leaves, not {type(leaf)}")
        manager = self._open(arrays)
        if step in manager.all_steps():
            if step in self._written:
                _log.info("step %d is already saved", step)
                if wait:
                    self.wait()
                return
            self._remove(manager, step)
        digests = device_digests(arrays)
        described = {key: [list(leaf.shape), leaf.dtype.name] for key, leaf in arrays.items()}
        own = {"format": FORMAT, "step": step, "arrays": described, "digests": digests}
        args: dict[str, Any] = {
            name: ocp.args.PyTreeSave(tree, save_args=_save_args(tree))
            for name, tree in items.items()
        }
        args["meta"] = ocp.args.JsonSave(sealed({"versions": _versions(), **meta, **own}))
        # force: Orbax would pass over a step older than its newest one, without a word.
        if not manager.save(step, args=ocp.args.Composite(**args), force=True):
            raise RuntimeError(f"{self._root}: Orbax refused to save step {step}")
        self._written.add(step)
        if wait:
            self.wait()

    def restore_newest(self, params: Any, opt_state: Any | None) -> Restored | None:
        """The newest step that reads back as it was written; None when there are no steps at all.

        Args:
            params: Abstract tree (`jax.ShapeDtypeStruct`, with shardings; without, on the first device).
            opt_state: Abstract tree, or None when it is not wanted.

        Raises:
            ValueError: The tree asked for is not the tree saved.
            CorruptCheckpoint: There are steps, and every one is damaged.
        """
        rejected: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                found = self.restore(step, params, opt_state)
            except CorruptCheckpoint as error:
                _log.error("%s; trying the step before it", error)
                rejected[step] = error.reason
                continue
            if rejected:
                _log.error("going on from step %d; not usable: %s", step, sorted(rejected))
            return Restored(found.step, found.params, found.opt_state, found.meta, rejected)
        if self._bad:
            step, reason = max(self._bad.items())
            reason += f" (and no step is left that is not: {sorted(self._bad)}; to start anew, "
            raise CorruptCheckpoint(
                self._run_dir, step, reason + "choose another run_dir or delete this one)"
            )
        return None

    def restore(self, step: int, params: Any, opt_state: Any | None) -> Restored:
        """One step, verified.

        Raises:
            ValueError: No such step, or the tree asked for is not the tree saved.
            CorruptCheckpoint: It does not read back as it was written; it is recorded as damaged.
        """
        if step in self._bad:
            raise CorruptCheckpoint(self._run_dir, step, f"recorded before: {self._bad[step]}")
        try:
            meta = self._agreed(step, lambda: read_meta(self._run_dir, step))
            items = {"params": params}
            has_opt_state = any(key.startswith("opt_state/") for key in meta["arrays"])
            if opt_state is not None and has_opt_state:
                items["opt_state"] = opt_state
            wanted = _placed(items)
            _check_same(step, meta["arrays"], wanted, tuple(items))
            arrays = self._agreed(step, lambda: self._read(step, items, wanted))
            self._compare(step, arrays, meta["digests"])
        except CorruptCheckpoint as error:
            self._bad[step] = error.reason
            if jax.process_index() == 0:
                _record(self._run_dir, error)
            raise
        self._written.add(step)
        trees = {
            name: jax.tree.unflatten(
                jax.tree.structure(tree), [arrays[f"{name}/{key}"] for key in flat_leaves(tree)]
            )
            for name, tree in items.items()
        }
        return Restored(step, trees["params"], trees.get("opt_state"), meta)

    def steps(self) -> list[int]:
        """Finished steps not known to be damaged, ascending."""
        return [step for step in committed_steps(self._run_dir) if step not in self._bad]

    def wait(self) -> None:
        """Returns when every save has been committed; raises what went wrong in the background."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and lets go."""
        if self._manager is not None:
            manager, self._manager = self._manager, None
            manager.close()

    def _open(self, arrays: Mapping[str, jax.Array]) -> ocp.CheckpointManager:
        """Orbax's manager, made at the first save: its memory bound depends on the arrays."""
        if self._manager is None:
            # Orbax refuses a single shard larger than the bound.
            largest = max(math.prod(_shard_shape(a)) * a.dtype.itemsize for a in arrays.values())
            bound = max(self._config.save_concurrent_gb, (largest + 1) / 1e9)

            def handler() -> ocp.PyTreeCheckpointHandler:
                # No compression: float32 weights shrink by a tenth at a fraction of a disk's speed.
                return ocp.PyTreeCheckpointHandler(
                    save_concurrent_gb=bound,  # pyright: ignore[reportArgumentType]
                    use_compression=False,
                )

            self._manager = ocp.CheckpointManager(
                self._root,
                options=ocp.CheckpointManagerOptions(
                    cleanup_tmp_directories=True,
                    # Damage in one step's files must not keep the manager from opening.
                    lightweight_initialize=True,
                    preservation_policy=_Keep(self._config, self._bad),
                ),
                item_handlers={
                    "params": handler(),
                    "opt_state": handler(),
                    "meta": ocp.JsonCheckpointHandler(),
                },
            )
        return self._manager

    def _remove(self, manager: ocp.CheckpointManager, step: int) -> None:
        """Deletes a step that is to be written again."""
        why = self._bad.get(step, "it belongs to a timeline that was rolled back")
        _log.warning("step %d is deleted and written anew: %s", step, why)
        manager.wait_until_finished()
        manager.delete(step)
        # Only now: killed before this line, the half-deleted step is still on the list.
        if self._bad.pop(step, None) is not None and jax.process_index() == 0:
            forget_bad(self._run_dir, step)

    def _read(
        self, step: int, items: Mapping[str, Any], wanted: Mapping[str, jax.ShapeDtypeStruct]
    ) -> dict[str, jax.Array]:
        arrays = {}
        for name in items:
            stored = StoredArrays(self._run_dir, step, name)
            prefix = name + "/"
            mine = {k.removeprefix(prefix): v for k, v in wanted.items() if k.startswith(prefix)}
            bound = int(self._config.save_concurrent_gb * 1e9)
            read = stored.read_sharded(mine, in_flight_bytes=bound)
            arrays.update({prefix + key: array for key, array in read.items()})
        return arrays

    def _compare(
        self, step: int, arrays: Mapping[str, jax.Array], saved: Mapping[str, list[int]]
    ) -> None:
        found = device_digests(arrays)
        wrong = [key for key in arrays if found[key] != saved[key]]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            reason = f"array {', '.join(wrong[:3])}{more}: the digest of what was read differs "
            raise CorruptCheckpoint(
                self._run_dir, step, reason + "from the digest taken before the save"
            )

    def _agreed(self, step: int, work: Callable[[], Any]) -> Any:
        """`work()`, with one opinion over all processes: damage seen by one is damage to all."""
        error, result = None, None
        try:
            result = work()
        except CorruptCheckpoint as found:
            error = found
        if jax.process_count() > 1:
            mine = error.reason if error else ""
            said = {i: text for i, text in enumerate(_gather_text(mine)) if text}
            if said and error is None:
                reason = "; ".join(f"process {i}: {text}" for i, text in said.items())
                error = CorruptCheckpoint(self._run_dir, step, reason)
        if error is not None:
            raise error
        return result


class _Keep:
    """Orbax's preservation policy: the newest good steps, and every so many; damaged ones go."""

    def __init__(self, config: CheckpointConfig, bad: Mapping[int, str]) -> None:
        self._config, self._bad = config, bad

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which of the steps stay. Orbax deletes the others once the newest is committed."""
        good = sorted(info.step for info in checkpoints if info.step not in self._bad)
        keep = set(good[-self._config.keep :])
        if every := self._config.keep_every:
            keep |= {step for step in good if step % every == 0}
        return [info.step in keep for info in checkpoints]


def _save_args(tree: Any) -> Any:
    """Stacked arrays in chunks of one layer; others in one chunk a shard, whatever their divisors."""

    def one(path: Any, leaf: jax.Array) -> ocp.SaveArgs:
        stacked = any(getattr(entry, "key", None) == "blocks" for entry in path)
        if stacked and leaf.ndim > 1:
            return ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES, shard_axes=(0,))
        return ocp.SaveArgs()

    return jax.tree_util.tree_map_with_path(one, tree)


def _placed(items: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """What is wanted by flat key, on the first device where nothing else is said."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {
        key: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or first
        )
        for key, leaf in flat_leaves(items).items()
    }


def _check_same(
    step: int, saved: Mapping[str, Any], wanted: Mapping[str, Any], items: Sequence[str]
) -> None:
    """Another model or optimizer is the caller's mistake, not damage."""
    saved = {key: value for key, value in saved.items() if key.split("/")[0] in items}
    lines = [f"{key}: saved, not wanted" for key in saved if key not in wanted]
    for key, leaf in wanted.items():
        if key not in saved:
            lines.append(f"{key}: wanted, not saved")
        elif saved[key] != [list(leaf.shape), leaf.dtype.name]:
            shape, dtype = saved[key]
            lines.append(f"{key}: saved {dtype}{shape}, wanted {leaf.dtype}{list(leaf.shape)}")
    if lines:
        more = [f"... and {len(lines) - 8} more"] if len(lines) > 8 else []
        raise ValueError(
            f"checkpoint step {step} holds another model or optimizer than the recipe's:\n  "
            + "\n  ".join(lines[:8] + more)
        )


def _shard_shape(array: jax.Array) -> tuple[int, ...]:
    return array.sharding.shard_shape(array.shape)


def _gather_text(mine: str, size: int = 1024) -> list[str]:
    """Every process's text, in order of processes."""
    buffer = np.zeros(size, np.uint8)
    data = np.frombuffer(mine.encode()[:size], np.uint8)
    buffer[: data.size] = data
    rows = np.asarray(multihost_utils.process_allgather(buffer)).reshape(-1, size)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in rows]


def _record(run_dir: str, error: CorruptCheckpoint) -> None:
    try:
        record_bad(run_dir, error.step, error.reason)
    except OSError as refused:
        _log.error("step %d could not be recorded as damaged: %s", error.step, refused)


def _versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
