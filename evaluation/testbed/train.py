"""One run of the testbed: the product's model, optimizer, packing, dealing, loss and step.

A process makes one `Trainer`; all its runs share one compiled step. A run is measured when it
reaches a budget of tokens. To a larger budget it is taken on from there if its rate is constant; a
schedule that ends is laid over the larger budget, and the run begins anew.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from data.tokenizer import Tokenizer
from evaluation.options import Scorer
from evaluation.testbed.config import TestbedConfig
from evaluation.testbed.measure import Answer, answers, asked
from evaluation.testbed.questions import Item
from evaluation.testbed.streams import NAMES, Packed
from model.attention import select
from model.config import resolve
from model.llama import init_params, num_params
from training.checkpoint import Checkpointer
from training.config import CheckpointConfig, TrainConfig
from training.optimizer import make_optimizer
from training.state import layout
from training.step import State, jit_step, make_train_step

_HORIZON = 1 << 24  # rows of a deal, more than any run takes: constant shares have no end
_AHEAD = 8  # steps sent off before their metrics are read


@dataclass(frozen=True)
class Measure:
    """A run at one budget.

    Attributes:
        budget: tokens asked for.
        tokens: tokens given, padding left out: the budget, up to one step.
        steps: steps done.
        loss: mean loss of the last steps, by stream.
        answers: to every item.
        seconds: wall time of the training and the measuring since the last budget.
        cpu_seconds: processor time of the same, of this process.
    """

    budget: int
    tokens: int
    steps: int
    loss: dict[str, float]
    answers: list[Answer]
    seconds: float
    cpu_seconds: float


class Trainer:
    """Trains and measures runs that differ in data and seed only."""

    def __init__(self, config: TestbedConfig, tokenizer: Tokenizer, items: Sequence[Item]) -> None:
        from tpu.config import MeshConfig
        from tpu.mesh import BATCH, check_rows, make_mesh

        run = config.run
        self._config, self._items = config, list(items)
        self._mesh = make_mesh(MeshConfig())
        platform = self._mesh.devices.flat[0].platform
        check_rows(run.batch_rows, run.accumulate, self._mesh, field="run.batch_rows")
        dtype = run.compute_dtype
        if dtype == "auto":
            dtype = "float32" if platform == "cpu" else "bfloat16"
        shape = resolve(config.model, tokenizer_vocab=tokenizer.vocab_size, base=None)
        train = TrainConfig(
            num_steps=1,
            seq_len=run.seq_len,
            global_batch_rows=run.batch_rows,
            accumulate=run.accumulate,
            compute_dtype=dtype,
        )
        tx = make_optimizer(config.optimizer, self._steps(run.budgets[0]))
        self.shape, self._train = shape, train
        self._plan = layout(shape, tx, self._mesh)
        kernel, self._attend = select("auto", platform, jnp.dtype(dtype), self._mesh)
        plan = self._plan
        self._compiled: dict[int, Any] = {}  # the step, by the steps that its schedule is over
        self._init = jax.jit(
            lambda key: init_params(shape, key), out_shardings=plan.shardings.params
        )
        self._start = jax.jit(tx.init, out_shardings=plan.shardings.opt_state)
        self._rows = NamedSharding(self._mesh, BATCH), NamedSharding(self._mesh, P(BATCH[0]))
        self._asked = asked(items, tokenizer)
        self._scorer = Scorer(
            shape,
            self._mesh,
            plan.specs,
            max_len=max(run.seq_len, max(_longest(a) for a in self._asked)),
            compute_dtype=dtype,
            bos_id=tokenizer.bos_id if tokenizer.add_bos else None,
        )
        self.about = {
            "parameters": num_params(shape),
            "platform": platform,
            "device": self._mesh.devices.flat[0].device_kind,
            "attention": kernel,
            "compute_dtype": dtype,
        }

    def run(
        self,
        streams: Sequence[Packed],
        weights: dict[str, float],
        *,
        seed: int,
        budget: int,
        run_dir: str,
    ) -> Measure:
        """Trains a run to a budget, from its checkpoint where it has one, and measures it.

        Args:
            streams: what it trains on.
            weights: their shares of the tokens.
            seed: of the first weights and of the order of the rows.
            budget: tokens, padding left out.
            run_dir: keeps its state.
        """
        wall, cpu = time.monotonic(), time.process_time()
        constant = self._config.optimizer.schedule == "constant"
        train_step = self._step(self._config.run.budgets[0] if constant else budget)
        place = run_dir if constant else f"{run_dir}/{budget}"
        with Checkpointer(place, CheckpointConfig(keep=1)) as checkpointer:
            plan = self._plan.abstract
            found = checkpointer.restore_newest(plan.params, plan.opt_state)
            if found is None:
                params = self._init(jax.random.key(seed))
                state, step, tokens = State(params, self._start(params)), 0, 0
            else:
                state = State(found.params, found.opt_state)
                step, tokens = found.step, found.meta["tokens"]
            feed = _Feed(streams, weights, seed, self._config.run.batch_rows)
            recent: list[Any] = []
            while tokens < budget:
                batch, given = feed.batch(step)
                state, metrics = train_step(state, self._placed(batch))
                step, tokens = step + 1, tokens + given
                recent = [*recent[-_AHEAD:], metrics]
                jax.block_until_ready(recent[0]["loss"])
            loss = _stream_loss(recent, streams)
            if not all(np.isfinite(list(loss.values()))):
                raise ValueError(
                    f"{run_dir}: the loss is {loss} at step {step}; lower optimizer.peak_lr"
                )
            if found is None or step > found.step:
                checkpointer.save(
                    step, state.params, state.opt_state, {"tokens": tokens}, wait=True
                )
        got = answers(self._items, self._scorer.score(state.params, self._asked))
        spent = time.monotonic() - wall, time.process_time() - cpu
        return Measure(budget, tokens, step, loss, got, *spent)

    def _steps(self, budget: int) -> int:
        run = self._config.run
        return max(budget // (run.batch_rows * run.seq_len), 1)

    def _step(self, budget: int) -> Any:
        """The training step whose schedule is over a budget, compiled once."""
        steps, plan = self._steps(budget), self._plan
        if steps not in self._compiled:
            tx = make_optimizer(self._config.optimizer, steps)
            parts = (self.shape, self._train, tx, self._mesh, plan.specs, self._attend)
            step = make_train_step(*parts, num_streams=len(NAMES))
            self._compiled[steps] = jit_step(step, plan.shardings, self._mesh)
        return self._compiled[steps]

    def _placed(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        of_rows, of_streams = self._rows
        return {
            name: jax.device_put(value, of_rows if value.ndim == 2 else of_streams)
            for name, value in batch.items()
        }


class _Feed:
    """Batches by their number: rows dealt by quotas and shuffled anew every epoch, as in `data`."""

    def __init__(
        self, streams: Sequence[Packed], weights: dict[str, float], seed: int, batch_rows: int
    ) -> None:
        from data.config import MixtureConfig, StreamConfig
        from data.mixture import Deal
        from data.plan import RunPlan

        plain = [packed.stream for packed in streams]
        configs = {
            stream.name: StreamConfig.model_validate(
                {"path": stream.path, "weight": weights[stream.name]}
            )
            for stream in plain
        }
        deal = Deal(plain, configs, MixtureConfig(), _HORIZON)
        self._streams, self._batch_rows = streams, batch_rows
        self._plan = RunPlan(plain, deal, seed, batch_rows, 0, _HORIZON)

    def batch(self, number: int) -> tuple[dict[str, np.ndarray], int]:
        """Batch `number` of the run, and its tokens, padding left out."""
        wanted = self._plan.wanted(number, np.arange(self._batch_rows))
        rows = [(self._streams[k], i) for k, i in zip(wanted.stream, wanted.row, strict=True)]
        batch = {
            name: np.stack([getattr(packed, name)[i] for packed, i in rows])
            for name in ("tokens", "segment_ids", "loss_mask")
        }
        names = [NAMES.index(packed.stream.name) for packed, _ in rows]
        batch["stream"] = np.array(names, np.int32)
        return batch, int((batch["segment_ids"] > 0).sum())


def _stream_loss(recent: Sequence[Any], streams: Sequence[Packed]) -> dict[str, float]:
    """Mean loss of every stream over some steps; what gave no row in them is left out."""
    total, count = np.zeros(len(NAMES)), np.zeros(len(NAMES))
    for metrics in recent:
        total += np.asarray(metrics["stream_loss"])
        count += np.asarray(metrics["stream_supervised"])
    at = {packed.stream.name: NAMES.index(packed.stream.name) for packed in streams}
    return {name: float(total[k] / count[k]) for name, k in at.items() if count[k]}


def _longest(a: Any) -> int:
    return len(a.context) + max(map(len, a.continuations))
