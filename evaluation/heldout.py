"""Held-out text as batches for whatever model is to be measured, and what the model makes of it.

A stream's held-out rows were packed with the run's tokenizer. A model with another one gets the same
documents tokenized anew; loss per token then means something else, bits per byte does not.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from data.chat import ChatConfig, encode_documents
from data.document import Document
from data.tokenizer import Tokenizer
from evaluation.scoring import HeldOut, score_heldout, spread_byte_lengths
from evaluation.source import Model
from model.attention import select
from training.step import make_eval_step


def encoded_anew(
    folder: str, tokenizer: Tokenizer, *, seq_len: int, add_bos: bool, max_rows: int
) -> list[Any]:
    """Packed rows (`data.pack.Row`) of the documents in a `heldout` folder, every token a target.

    Raises:
      ValueError: the folder holds no documents.
    """
    from data.pack import pack

    documents = read_documents(folder)
    encoded = encode_documents(documents, tokenizer, ChatConfig(), add_bos=add_bos, add_eos=True)
    return list(itertools.islice(pack(encoded, seq_len), max_rows))


def read_documents(folder: str) -> list[Document]:
    """The documents of a `heldout` folder, in their order.

    Raises:
      ValueError: it holds none.
    """
    path = epath.Path(folder) / "documents.jsonl.zst"
    if not path.exists():
        raise ValueError(f"{path} is not there; held-out text is written by data.prepare")
    return [Document.from_json(line) for line in _lines(path)]


def score_streams(model: Model, recipe: Any) -> tuple[dict[str, HeldOut], list[str], str]:
    """A model on the held-out text of a recipe's streams.

    Returns:
        The scores by stream, the streams whose text had to be tokenized anew, and the attention used.

    Raises:
        ValueError: no stream has held-out text.
    """
    from data.loader import has_heldout, heldout_batches
    from data.stream import open_stream
    from tpu.mesh import BATCH, check_rows

    run, mesh = recipe.train, model.plan.mesh
    check_rows(recipe.eval_rows, 1, mesh, field="eval.batch_rows")
    platform = mesh.devices.flat[0].platform
    kernel, attend = select(run.attention, platform, jnp.dtype(run.compute_dtype), mesh)
    eval_step = jax.jit(make_eval_step(model.config, run, mesh, model.plan.specs, attend))
    byte_lengths = spread_byte_lengths(model.tokenizer.byte_lengths(), model.config, mesh)
    scores: dict[str, HeldOut] = {}
    anew: list[str] = []
    for name, stream in recipe.streams.items():
        info = open_stream(name, stream.path).info
        if not has_heldout(stream.path):
            continue
        folder = f"{stream.path}/heldout"
        limits = {"batch_rows": recipe.eval_rows, "mesh": mesh, "spec": BATCH}
        if info["tokenizer"] == model.tokenizer.fingerprint:
            batches = heldout_batches(folder, max_rows=recipe.eval.max_rows, **limits)
        else:
            anew.append(name)
            packed = encoded_anew(
                folder,
                model.tokenizer,
                seq_len=run.seq_len,
                add_bos=model.add_bos,
                max_rows=recipe.eval.max_rows,
            )
            batches = batches_of(packed, **limits)
        scores[name] = score_heldout(eval_step, model.params, batches, byte_lengths)
    if not scores:
        raise ValueError(
            f"streams: no held-out text in {', '.join(recipe.streams) or 'any, there are none'}; name a "
            "recipe whose streams were prepared with a heldout.fraction above 0"
        )
    return scores, anew, kernel


def batches_of(
    rows: Sequence[Any], *, batch_rows: int, mesh: Mesh, spec: P
) -> Iterator[dict[str, jax.Array]]:
    """Rows as batches on the mesh, the last one filled up with empty rows."""
    for start in range(0, len(rows), batch_rows):
        part = rows[start : start + batch_rows]
        empty = batch_rows - len(part)
        arrays = {
            name: np.stack([getattr(row, name) for row in part])
            for name in ("tokens", "segment_ids", "loss_mask")
        }
        arrays = {name: np.pad(x, ((0, empty), (0, 0))) for name, x in arrays.items()}
        arrays["stream"] = np.zeros(batch_rows, np.int32)
        yield {
            name: _place(x, NamedSharding(mesh, spec if x.ndim == 2 else P(spec[0])))
            for name, x in arrays.items()
        }


def _place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _lines(path: epath.Path) -> Iterable[str]:
    import zstandard

    with path.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    return text.decode("utf-8").splitlines()
