"""Hugging Face weights, read slice by slice straight into sharded arrays.

No host holds the model: a process reads of every tensor the slices that its devices hold, one layer
at a time, and the devices write them into their part of the stacked array. So the peak in host
memory is the process's share of the float32 weights (where devices are the host itself) plus two
layers of one tensor.
"""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from model.config import LlamaConfig
from model.huggingface import names
from model.huggingface.config import is_hub_id
from model.huggingface.names import Tensor

Box = tuple[slice, ...]

_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_READERS = 4  # threads that read ahead
_LISTED = 20  # names shown of each kind of mismatch


def load_params(
    source: str,
    config: LlamaConfig,
    specs: Any = None,
    mesh: Mesh | None = None,
    *,
    revision: str | None = None,
    dtype: str = "float32",
) -> dict[str, Any]:
    """The weights of a Hugging Face model as our parameter tree.

    Args:
        source: a folder (local, gs:// or s3://) or a hub id; `.safetensors`, or `.bin` where torch
            is installed.
        config: the shape to fill, as read_config gives it; rows that pad the vocabulary become
            zero.
        specs: tree of PartitionSpecs (with `mesh`) or of Shardings; None puts everything on one
            device.
        mesh: of the specs.
        revision: of a hub id.
        dtype: of the matrices; norm scales are float32.

    Returns:
        Nested dicts of arrays with these shardings. Every process of a run calls this together.

    Raises:
        ValueError: no weights there, or tensors missing, unknown, of another shape or of a dtype we
            do not read: one error that lists all of them.
    """
    shardings = _shardings(config, specs, mesh)
    with contextlib.ExitStack() as stack:
        store = open_store(fetch(source, revision), stack)
        _check(source, store, config)
        pool = stack.enter_context(ThreadPoolExecutor(_READERS))
        leaves = {}
        by_key: dict[str, list[Tensor]] = {}
        for tensor in names.tensors(config):
            by_key.setdefault(tensor.key, []).append(tensor)
        for key, layers in by_key.items():
            held = "float32" if key.endswith("/scale") else dtype
            leaves[key] = _fill(store, config, layers, shardings[key], held, pool)
    return names.unflatten(leaves)


class Store(Protocol):
    """A folder's tensors: `entries` is {name: (shape, dtype in safetensors' words)}."""

    entries: dict[str, tuple[tuple[int, ...], str]]

    def read(self, name: str, box: Box) -> np.ndarray:
        """A box of one tensor, in the dtype stored."""
        ...


def fetch(source: str, revision: str | None = None) -> epath.Path:
    """The folder of a model: itself, or a hub id's snapshot, downloaded as far as it is missing."""
    folder = epath.Path(source)
    if folder.is_dir():
        return folder
    if not is_hub_id(source):
        raise ValueError(f"{source}: no such folder, and not a hub id (org/name)")
    import huggingface_hub

    kept = ["*.json", "*.model", "*.jinja", "*.txt"]
    try:
        files = huggingface_hub.HfApi().list_repo_files(source, revision=revision)
        weights = "*.safetensors" if any(f.endswith(".safetensors") for f in files) else "*.bin"
    except OSError:  # no network: what an earlier download left may be enough
        weights = "*.safetensors"
    try:
        return epath.Path(
            huggingface_hub.snapshot_download(
                source,
                revision=revision,
                allow_patterns=[*kept, weights],
                ignore_patterns=["*/*", "consolidated*"],  # the same weights in other formats
            )
        )
    except OSError as error:
        raise ValueError(f"{source}: no such folder, and the Hub says: {error}") from error


def open_store(folder: epath.Path, stack: contextlib.ExitStack) -> Store:
    """The weights in a folder; files stay open as long as `stack`."""
    for kind, name in ((_Safetensors, "model.safetensors"), (_Torch, "pytorch_model.bin")):
        index = folder / f"{name}.index.json"
        if index.exists():
            placed = json.loads(index.read_text())["weight_map"]
            missing = sorted({f for f in placed.values() if not (folder / f).exists()})
            if missing:
                raise ValueError(f"{index}: names files that are not there: {', '.join(missing)}")
            return kind(folder, sorted(set(placed.values())), stack)
        if (folder / name).exists():
            return kind(folder, [name], stack)
    raise ValueError(
        f"{folder}: no weights; looked for model.safetensors and pytorch_model.bin, "
        "whole or with an index"
    )


class _Safetensors:
    """Slices of safetensors files: mapped where they are local, by ranges where they are not."""

    def __init__(self, folder: epath.Path, files: list[str], stack: contextlib.ExitStack):
        self.entries: dict[str, tuple[tuple[int, ...], str]] = {}
        self._open: dict[str, Any] = {}
        for name in files:
            path = folder / name
            if "://" in str(path):
                handle = _Remote(str(path))
            else:
                import safetensors

                try:
                    handle = stack.enter_context(safetensors.safe_open(str(path), "numpy"))
                except safetensors.SafetensorError as error:
                    raise ValueError(f"{path}: not a whole safetensors file ({error})") from error
            for tensor in handle.keys():  # noqa: SIM118 (a safe_open has no iterator)
                part = handle.get_slice(tensor)
                self.entries[tensor] = (tuple(part.get_shape()), str(part.get_dtype()))
                self._open[tensor] = handle

    def read(self, name: str, box: Box) -> np.ndarray:
        return self._open[name].get_slice(name)[box]


class _Remote:
    """A safetensors file in object storage, read by byte ranges."""

    def __init__(self, path: str):
        import fsspec

        self._fs, self._path = fsspec.core.url_to_fs(path)
        length = int.from_bytes(self._fs.cat_file(self._path, 0, 8), "little")
        header = json.loads(self._fs.cat_file(self._path, 8, 8 + length))
        header.pop("__metadata__", None)
        self._header, self._data = header, 8 + length

    def keys(self) -> Iterator[str]:
        return iter(self._header)

    def get_slice(self, name: str) -> "_RemoteSlice":
        return _RemoteSlice(self._fs, self._path, self._data, self._header[name])


class _RemoteSlice:
    """Whole rows are fetched; columns are cut from them."""

    def __init__(self, fs: Any, path: str, start: int, entry: dict[str, Any]):
        self._fs, self._path, self._start, self._entry = fs, path, start, entry

    def get_shape(self) -> list[int]:
        return self._entry["shape"]

    def get_dtype(self) -> str:
        return self._entry["dtype"]

    def __getitem__(self, box: Box) -> np.ndarray:
        shape, dtype = self._entry["shape"], np.dtype(_DTYPES[self._entry["dtype"]])
        row = dtype.itemsize * int(np.prod(shape[1:], initial=1))
        first = self._start + self._entry["data_offsets"][0]
        data = self._fs.cat_file(self._path, first + box[0].start * row, first + box[0].stop * row)
        rows = np.frombuffer(data, dtype).reshape(-1, *shape[1:])
        return rows[(slice(None), *box[1:])]


class _Torch:
    """Tensors of `.bin` files, mapped, never unpickling anything but tensors."""

    def __init__(self, folder: epath.Path, files: list[str], stack: contextlib.ExitStack):
        try:
            import torch
        except ImportError as error:
            raise ValueError(
                f"{folder}: its weights are .bin files, which need torch; install it, or convert "
                "them to safetensors"
            ) from error
        if "://" in str(folder):
            raise ValueError(f"{folder}: .bin files are read locally only; copy the folder here")
        self._bits = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.int16}
        words = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
        self._tensors: dict[str, Any] = {}
        for name in files:
            loaded = torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True)
            self._tensors |= loaded
        self.entries = {
            name: (tuple(t.shape), words.get(t.dtype, str(t.dtype)))
            for name, t in self._tensors.items()
        }
        stack.callback(self._tensors.clear)

    def read(self, name: str, box: Box) -> np.ndarray:
        word = self.entries[name][1]
        part = self._tensors[name][box].view(self._bits[word]).numpy()
        return np.array(part).view(_DTYPES[word])


def _check(source: str, store: Store, config: LlamaConfig) -> None:
    """Every tensor there, none unknown, each with its shape and a dtype we read."""
    expected = {t.name: t.shape for t in names.tensors(config)}
    extra = {n for n in store.entries if n not in expected}
    extra = {n for n in extra if not n.endswith(".rotary_emb.inv_freq")}  # old exports; derived
    if config.tied_head and "lm_head.weight" in extra and _same(store):
        extra.remove("lm_head.weight")
    found = {n: e for n, e in store.entries.items() if n in expected}
    problems = {
        "missing": sorted(set(expected) - set(found)),
        "unknown": [f"{n} {store.entries[n][0]}" for n in sorted(extra)],
        "of another shape": [
            f"{n} {shape}, expected {expected[n]}"
            for n, (shape, _) in found.items()
            if shape != expected[n]
        ],
        "of a dtype other than F32, F16, BF16": [
            f"{n} {dtype}" for n, (_, dtype) in found.items() if dtype not in _DTYPES
        ],
    }
    lines = []
    for what, listed in problems.items():
        if listed:
            more = f", and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
            lines.append(f"  {what}: {', '.join(listed[:_LISTED])}{more}")
    if lines:
        listing = "\n".join(lines)
        raise ValueError(f"{source}: its tensors are not those of its config.json\n{listing}")


def _same(store: Store, rows: int = 4096) -> bool:
    """Whether a tied model's spare head is its embedding table; old exports write both."""
    table, head = "model.embed_tokens.weight", "lm_head.weight"
    if store.entries.get(table) != store.entries[head]:
        return False
    size, width = store.entries[table][0]
    boxes = [(slice(i, min(i + rows, size)), slice(0, width)) for i in range(0, size, rows)]
    return all(store.read(table, b).tobytes() == store.read(head, b).tobytes() for b in boxes)


def _fill(
    store: Store,
    config: LlamaConfig,
    layers: list[Tensor],
    sharding: Sharding,
    dtype: str,
    pool: ThreadPoolExecutor,
) -> jax.Array:
    """One of our arrays from the tensors of its layers."""
    first = layers[0]
    shape = list(first.ours)
    if first.key in names.VOCAB_DIMS:
        shape[names.VOCAB_DIMS[first.key]] = config.padded_vocab_size
    stacked = first.layer is not None
    of_layer = _without_layers(sharding) if stacked else sharding
    boxes = {
        _box(index, shape)
        for index in of_layer.addressable_devices_indices_map(tuple(shape)).values()
    }

    def start(tensor: Tensor) -> dict[tuple, Future]:
        stored = _DTYPES[store.entries[tensor.name][1]]

        def read(box: tuple[tuple[int, int], ...]) -> np.ndarray:
            index = tuple(slice(*b) for b in box)
            part = names.read_slice(lambda theirs: store.read(tensor.name, theirs), tensor, index)
            return np.ascontiguousarray(part.astype(stored, copy=False))

        return {box: pool.submit(read, box) for box in boxes}

    def array(parts: dict[tuple, Future]) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            return parts[_box(index, shape)].result()

        return jax.make_array_from_callback(tuple(shape), of_layer, part)

    if not stacked:
        cast = jax.jit(lambda x: x.astype(dtype), out_shardings=sharding)
        return cast(array(start(first)))
    whole = (len(layers), *shape)
    out = jax.jit(lambda: jnp.zeros(whole, dtype), out_shardings=sharding)()
    write = jax.jit(_write_layer, donate_argnums=0, out_shardings=sharding)
    ahead = start(layers[0])
    for i in range(len(layers)):
        now, ahead = ahead, start(layers[i + 1]) if i + 1 < len(layers) else {}
        out = write(out, array(now), jnp.int32(i))
        out.block_until_ready()  # else pieces pile up in host memory
    return out


def _write_layer(stack: jax.Array, layer: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, layer.astype(stack.dtype), index, 0)


def _box(index: Any, shape: list[int]) -> tuple[tuple[int, int], ...]:
    return tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))


def _without_layers(sharding: Sharding) -> Sharding:
    """The sharding of one layer of a stacked array."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return sharding


def _shardings(config: LlamaConfig, specs: Any, mesh: Mesh | None) -> dict[str, Sharding]:
    """{flat key: sharding} from what load_params takes."""
    keys = {t.key for t in names.tensors(config)}
    if specs is None:
        return dict.fromkeys(keys, SingleDeviceSharding(jax.local_devices()[0]))
    flat = names.flatten(specs)
    lost = sorted(keys - set(flat))
    if lost:
        raise ValueError(f"specs: no entry for {', '.join(lost)}")
    if mesh is None and not all(isinstance(flat[key], Sharding) for key in keys):
        raise ValueError("mesh: needed with PartitionSpecs")

    def place(spec: Any) -> Sharding:
        if isinstance(spec, Sharding):
            return spec
        assert mesh is not None
        return NamedSharding(mesh, spec)

    return {key: place(flat[key]) for key in keys}
