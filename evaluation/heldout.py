"""Held-out text as batches for whatever model is to be measured, and what the model makes of it.

One walk for a run's live weights (`evaluation.inrun`), for `evaluation.run` and for the report.

A stream's held-out rows were packed with the run's tokenizer. A model with another one gets the same
documents tokenized anew; loss per token then means something else, bits per byte does not.
"""

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from model.attention import Attend, select
from model.config import LlamaConfig
from model.llama import Params
from training.config import TrainConfig
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


class HeldOutText:
    """The held-out text of a recipe's streams, walked with whatever weights it is given.

    Attributes:
        anew: the streams whose text had to be tokenized anew, as they were packed for other models.
        names: the streams that have held-out text, in the recipe's order.
    """

    def __init__(
        self,
        recipe: Any,
        run: TrainConfig,
        config: LlamaConfig,
        mesh: Mesh,
        specs: Params,
        attend: Attend,
        tokenizer: Tokenizer,
        *,
        add_bos: bool,
    ) -> None:
        """Reads no text yet, but for what is tokenized anew.

        Args:
            recipe: names the streams and how much of each is measured.
            run: the recipe's `train` with what it leaves open decided.
            config: the network's shape.
            mesh: where the weights lie.
            specs: how.
            attend: the attention to compute with.
            tokenizer: the model's.
            add_bos: whether the model's texts begin with BOS.

        Raises:
            ValueError: a stream is not there, or rows do not divide over the mesh.
        """
        from data.loader import has_heldout, heldout_batches
        from data.stream import open_stream
        from tpu.mesh import BATCH, check_rows

        check_rows(recipe.eval_rows, 1, mesh, field="eval.batch_rows")
        self.anew: list[str] = []
        self._batches: dict[str, Callable[[], Iterable[Any]]] = {}
        limits = {"batch_rows": recipe.eval_rows, "mesh": mesh, "spec": BATCH}
        most = recipe.eval.max_rows
        for name, stream in recipe.streams.items():
            info = open_stream(name, stream.path).info
            if not has_heldout(stream.path):
                continue
            folder = f"{stream.path}/heldout"
            if info["tokenizer"] == tokenizer.fingerprint:
                walk = functools.partial(heldout_batches, folder, max_rows=most, **limits)
            else:
                self.anew.append(name)
                rows = encoded_anew(
                    folder, tokenizer, seq_len=run.seq_len, add_bos=add_bos, max_rows=most
                )
                walk = functools.partial(batches_of, rows, **limits)
            self._batches[name] = walk
        self.names = tuple(self._batches)
        self._rows = recipe.eval_rows
        self._eval_step = jax.jit(make_eval_step(config, run, mesh, specs, attend))
        self._byte_lengths = spread_byte_lengths(tokenizer.byte_lengths(), config, mesh)

    def score(self, params: Params) -> dict[str, HeldOut]:
        """What the weights make of every stream; all processes call it and get the same."""
        return {
            name: score_heldout(self._eval_step, params, walk(), self._byte_lengths)
            for name, walk in self._batches.items()
        }

    def row_seconds(self, params: Params) -> float | None:
        """What a row takes, forward, once compiled; None where there is no text."""
        if not self._batches:
            return None
        batch = next(iter(self._batches[self.names[0]]()))
        begun = time.monotonic()
        jax.block_until_ready(self._eval_step(params, batch, self._byte_lengths))
        return (time.monotonic() - begun) / self._rows


def score_streams(model: Model, recipe: Any) -> tuple[dict[str, HeldOut], list[str], str]:
    """A model on the held-out text of a recipe's streams.

    Returns:
        The scores by stream, the streams whose text had to be tokenized anew, and the attention used.

    Raises:
        ValueError: no stream has held-out text.
    """
    run, mesh = recipe.train, model.plan.mesh
    platform = mesh.devices.flat[0].platform
    kernel, attend = select(run.attention, platform, jnp.dtype(run.compute_dtype), mesh)
    text = HeldOutText(
        recipe,
        run,
        model.config,
        mesh,
        model.plan.specs,
        attend,
        model.tokenizer,
        add_bos=model.add_bos,
    )
    if not text.names:
        raise ValueError(
            f"streams: no held-out text in {', '.join(recipe.streams) or 'any, there are none'}; name a "
            "recipe whose streams were prepared with a heldout.fraction above 0"
        )
    return text.score(model.params), text.anew, kernel


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
