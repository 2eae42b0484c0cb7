"""Log-likelihoods of options and of whole texts, many at once.

- the options of an item share its context: it is read once, and so is whatever the options share
  (`evaluation.branches`: one tree per item, its tokens see their ancestors)
- what all contexts begin with, the examples of a few-shot prompt, is read once for all of them and
  kept as keys and values
- a token from which nothing is predicted is not read, and logits are formed only where an option is
  scored: a one-token option costs one row of the output matrix, however many options there are
- rows have few lengths, hold several small trees, and lie over the mesh as a training batch does;
  weights are gathered layer by layer, so a training run's live state is scored where it lies
"""

import functools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from evaluation.branches import PackedRow, Path, by_beginning, families, grow, pack, rung
from evaluation.readout import read_out
from evaluation.rows import ARRAYS, calls, row_arrays
from evaluation.tree import Prefix, tree_pass
from model.config import LlamaConfig
from model.llama import Params
from tpu.mesh import ROWS, manual_part
from training.gather import make_gather

# Scored positions whose logits are held at once, per device. Few of them are a product that waits for the
# output matrix; many are filled up with nothing at the end of a call, which a CPU has to compute.
_CHUNK = {"cpu": 32, "tpu": 256}
_UNDER_WAY = 2  # calls sent off before the first one's numbers are waited for


@dataclass(frozen=True)
class Asked:
    """A context and what may follow it, as token ids. Neither may be empty."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Scored:
    """What a model makes of the continuations of one context, in their order.

    Attributes:
        logprobs: summed log-probability of each, in nats.
        tokens: of each.
        greedy: whether taking the likeliest token every time would have written it.
        cut: tokens that the context lost on its left because the window is shorter.
    """

    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    greedy: tuple[bool, ...]
    cut: int


@dataclass(frozen=True)
class Rolled:
    """The log-likelihood of one whole text: nats, and the tokens that were predicted."""

    logprob: float
    tokens: int


class Scorer:
    """Scores with whatever weights it is given; compiled once per shape.

    Attributes:
        counts: what the last `score` took: rows, tokens (those of the trees), slots (tokens of the rows,
            filling included), prefix (tokens read once for all), positions (with logits), calls.
    """

    def __init__(
        self,
        config: LlamaConfig,
        mesh: Mesh,
        specs: Params,
        *,
        max_len: int | None = None,
        compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        bos_id: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        """Compiles nothing yet.

        Args:
            config: the network's shape.
            mesh: where the weights lie.
            specs: how (`Model.plan.specs`, or a training run's own).
            max_len: tokens that the network reads at most; default: the model's window. A
                continuation's last token is not read, so it does not count.
            compute_dtype: auto is float32 on a CPU, bfloat16 elsewhere.
            bos_id: stays in front when a context is cut.
            batch_tokens: tokens of one call, per device that holds rows.

        Raises:
            ValueError: `max_len` is longer than the model's window.
        """
        platform = mesh.devices.flat[0].platform
        if max_len is not None and max_len > config.max_seq_len:
            raise ValueError(
                f"max_len: {max_len} is more than the model's {config.max_seq_len} positions"
            )
        if compute_dtype == "auto":
            compute_dtype = "float32" if platform == "cpu" else "bfloat16"
        self.config, self.mesh, self.compute_dtype = config, mesh, compute_dtype
        self.max_len = max_len or config.max_seq_len
        self.counts: dict[str, int] = {}
        self._bos_id = bos_id
        self._ways = math.prod(mesh.shape[axis] for axis in ROWS)
        self._batch_tokens = batch_tokens or (2048 if platform == "cpu" else 8192)
        self._smallest = 128 if platform == "cpu" else 512
        chunk = _CHUNK.get(platform, 128)
        manual = jax.tree.map(manual_part, specs, is_leaf=lambda x: isinstance(x, P))
        gather = make_gather(manual, mesh, compute_dtype, "float32")
        over = functools.partial(
            jax.shard_map, mesh=mesh, axis_names=set(ROWS), out_specs=P(), check_vma=False
        )

        def prefix(params: Params, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
            T = tokens.shape[1]
            exits = jnp.full_like(tokens, T)
            positions = jnp.arange(T)[None]
            _, keys, values = tree_pass(params, config, tokens, exits, positions, gather)
            return keys[:, 0], values[:, 0]

        def rows(params: Params, batch: dict[str, jax.Array], before: Prefix | None) -> Any:
            hidden, _, _ = tree_pass(
                params,
                config,
                batch["tokens"],
                batch["exits"],
                batch["positions"],
                gather,
                before,
            )
            # The tied matrix as it lies: a transposed copy of it would be made in every call.
            if config.tied_head:
                head = gather("embed", params["embed"])["table"]
            else:
                head = gather("head", params["head"])["kernel"]
            flat = hidden.reshape(-1, config.embed_dim)
            found = read_out(flat, head, config, batch, chunk)
            return jax.lax.all_gather(found, ROWS, tiled=True)

        batch_specs = {name: P(ROWS) for name in ARRAYS}
        self._prefix = jax.jit(over(prefix, in_specs=(manual, P())))
        self._plain = jax.jit(
            over(lambda params, batch: rows(params, batch, None), in_specs=(manual, batch_specs))
        )
        self._after_prefix = jax.jit(over(rows, in_specs=(manual, batch_specs, P())))

    @property
    def compiled(self) -> int:
        """Programs compiled so far; JAX keeps them."""
        programs: list[Any] = [self._prefix, self._plain, self._after_prefix]
        return sum(program._cache_size() for program in programs)

    def score(self, params: Params, asked: Sequence[Asked]) -> list[Scored]:
        """What the weights make of every continuation, in the order asked.

        Neighbours whose contexts begin alike are read together, so candidates that change the prompt
        itself should be asked one after the other. Every process of a run calls it with the same.

        Raises:
            ValueError: a context or a continuation is empty, or a continuation longer than the window.
        """
        self.counts = dict.fromkeys(("rows", "tokens", "slots", "prefix", "positions", "calls"), 0)
        fitted = [self._fit(number, one) for number, one in enumerate(asked)]
        logprobs = [[0.0] * len(one.continuations) for one in asked]
        greedy = [[True] * len(one.continuations) for one in asked]
        # A pass of its own and calls of its own must save about half a call. What few contexts share is
        # read once all the same: neighbours go into one tree.
        worth = self._batch_tokens // 2
        for group, skip in by_beginning([paths for paths, _ in fitted], worth):
            before = self._read_prefix(params, group[0][0].tokens[:skip]) if skip else None
            most = 2 * self.max_len
            trees = [grow(family, skip) for family in families(group, most)]
            self._score_rows(params, pack(trees, self._smallest), before, logprobs, greedy)
        return [
            Scored(
                tuple(logprobs[i]),
                tuple(len(c) for c in one.continuations),
                tuple(greedy[i]),
                fitted[i][1],
            )
            for i, one in enumerate(asked)
        ]

    def rolling(
        self,
        params: Params,
        texts: Sequence[Sequence[int]],
        *,
        prefix: int | None,
        context: int = 1,
    ) -> list[Rolled]:
        """The log-likelihood of whole texts, every token predicted once.

        A text longer than the window is read in windows. The first predicts a full window; each
        further one sees at least `context` tokens before the first that it predicts, the last as many
        as fit.

        Args:
            params: the weights.
            texts: token ids.
            prefix: what the first token is predicted from (BOS or EOS); None leaves the first token
                unpredicted.
            context: tokens, at least 1.
        """
        asked: list[Asked] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            whole = (*(() if prefix is None else (prefix,)), *(int(t) for t in text))
            for known, predicted in _windows(len(whole), self.max_len, context):
                asked.append(Asked(whole[known[0] : known[1]], (whole[slice(*predicted)],)))
                owners.append(number)
        totals = [Rolled(0.0, 0) for _ in texts]
        for number, one in zip(owners, self.score(params, asked), strict=True):
            so_far = totals[number]
            totals[number] = Rolled(so_far.logprob + one.logprobs[0], so_far.tokens + one.tokens[0])
        return totals

    # --- host side --------------------------------------------------------------------------------

    def _fit(self, number: int, asked: Asked) -> tuple[list[Path], int]:
        """The paths of a context, cut on its left until the longest continuation fits."""
        if not asked.context or not asked.continuations or not all(asked.continuations):
            raise ValueError(
                f"item {number}: a context and its continuations must have tokens; put BOS before an "
                "empty context"
            )
        longest = max(map(len, asked.continuations))
        room = self.max_len - longest + 1
        if room < 1:
            raise ValueError(
                f"item {number}: a continuation of {longest} tokens does not fit the window of "
                f"{self.max_len}"
            )
        context = np.asarray(asked.context, np.int32)
        cut = max(0, len(context) - room)
        if cut:
            keep = context[:1] if room > 1 and context[0] == self._bos_id else context[:0]
            context = np.concatenate([keep, context[cut + len(keep) :]])
        paths = [
            Path(
                (number, option),
                np.concatenate([context, np.asarray(continuation, np.int32)]),
                len(context),
            )
            for option, continuation in enumerate(asked.continuations)
        ]
        return paths, cut

    def _read_prefix(self, params: Params, tokens: np.ndarray) -> Prefix:
        length = rung(len(tokens), 32)
        filled = np.zeros((1, length), np.int32)
        filled[0, : len(tokens)] = tokens
        keys, values = self._prefix(params, self._spread(filled))
        self.counts["prefix"] += len(tokens)
        return Prefix(keys, values, self._spread(np.int32(len(tokens))))

    def _score_rows(
        self,
        params: Params,
        rows: Sequence[PackedRow],
        before: Prefix | None,
        logprobs: list[list[float]],
        greedy: list[list[bool]],
    ) -> None:
        under_way: deque[tuple[list[list[PackedRow]], Any]] = deque()

        def look() -> None:
            shares, found = under_way.popleft()
            nats, likeliest = (np.asarray(x) for x in jax.device_get(found))
            for share, share_nats, share_likeliest in zip(
                shares, np.split(nats, self._ways), np.split(likeliest, self._ways), strict=True
            ):
                at = 0
                for tree in (tree for row in share for tree in row.trees):
                    sums = np.add.reduceat(
                        share_nats[at : at + len(tree.targets)].astype(np.float64), tree.bounds[:-1]
                    )
                    alls = np.logical_and.reduceat(
                        share_likeliest[at : at + len(tree.targets)], tree.bounds[:-1]
                    )
                    for (i, j), nat, all_ in zip(tree.owners, sums, alls, strict=True):
                        logprobs[i][j], greedy[i][j] = float(nat), bool(all_)
                    at += len(tree.targets)

        for part in calls(rows, self._batch_tokens, self._ways):
            shares = [part[n :: self._ways] for n in range(self._ways)]
            batch = row_arrays(shares)
            self.counts["calls"] += 1
            self.counts["rows"] += len(part)
            self.counts["tokens"] += sum(len(tree) for row in part for tree in row.trees)
            self.counts["slots"] += batch["tokens"].size
            self.counts["positions"] += int(batch["num_read"].sum())
            placed = {name: self._place(array) for name, array in batch.items()}
            if before is None:
                found = self._plain(params, placed)
            else:
                found = self._after_prefix(params, placed, before)
            under_way.append((shares, found))
            if len(under_way) > _UNDER_WAY:
                look()
        while under_way:
            look()

    def _place(self, array: np.ndarray) -> jax.Array:
        sharding = NamedSharding(self.mesh, P(ROWS))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def _spread(self, array: Any) -> jax.Array:
        array = np.asarray(array)
        sharding = NamedSharding(self.mesh, P())
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _windows(
    length: int, most: int, context: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """(known, predicted) spans of a text whose first token is given."""
    done = 1
    while done < length:
        fresh = min(length - done, most if done == 1 else most - context + 1)
        end = done + fresh
        yield (max(0, end - 1 - most), done), (done, end)
        done = end
