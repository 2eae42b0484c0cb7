"""Scoring of options against the published way: one padded row per option, logits of every token.

    python -m tests.benchmarks.options --model 10m --items 12
    python -m tests.benchmarks.options --model 100m --items 4 --tasks arc_challenge,pubmedqa,mqp,chemprot

Both sides in one process, the same random weights in float32, the same token ids, each compiled before
it is measured (the first pass over the items), and taken in turns. The published way: the items of a batch
of its published size, a row for every option, padded to the longest of them (to a multiple of 8, so that
not every length is compiled), all logits formed. The ratio is of processor seconds, as wall time says
little on a machine that others use; it is printed too. What both say is compared.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from data.tokenizer import load_tokenizer
from evaluation.encode import encode_questions
from evaluation.options import Asked, Scorer
from evaluation.prompt import ask, choose_items
from evaluation.task import load_task
from evaluation.taskrun import open_items
from model.config import LlamaConfig
from model.llama import forward, init_params, num_params
from tpu.config import MeshConfig
from tpu.mesh import make_mesh
from training.state import layout

SHAPES = {
    "10m": {"embed_dim": 192, "mlp_dim": 512, "num_layers": 8, "num_heads": 6, "tied_head": True},
    "100m": {"embed_dim": 640, "mlp_dim": 1728, "num_layers": 12, "num_heads": 10},
}
# Items a batch in the published evaluator; what it does not have gets 4.
BATCH = {"mqp": 10, "pubmedqa": 1, "usmle": 2, "rct": 4, "chemprot": 1, "fiqa_sa": 1, "fpb": 1}
BATCH |= {"headline": 32, "scotus": 1, "casehold": 1, "unfair_tos": 4}
REAL = ("arc_challenge", "arc_easy", "boolq", "piqa", "openbookqa", "winogrande", "pubmedqa", "mqp")
MADE = (
    "chemprot",
    "rct",
    "usmle",
    "fpb",
    "fiqa_sa",
    "headline",
    "scotus",
    "casehold",
    "unfair_tos",
)
TOGETHER = ("arc_challenge", "pubmedqa", "mqp", "chemprot")


def questions(name: str, tokenizer: Any, items: int) -> tuple[list[list[Asked]], float]:
    """The entries of every item, and the mean number of options."""
    task = load_task(name)
    found = open_items(task, fixtures=name in MADE)
    chosen, examples = choose_items(found.items, task, limit=items, seed=0, rendered=found.rendered)
    asked = ask(chosen, examples, task, rendered=found.rendered)
    entries, counts = encode_questions(asked, tokenizer, add_bos=True)
    it = iter(entries)
    grouped = [[next(it) for _ in range(count)] for count in counts]
    return grouped, float(np.mean([len(item.options) for item in chosen]))


def published(params: Any, config: LlamaConfig, batch_items: int) -> Callable[..., list[float]]:
    """The score of every option by a row of its own."""

    @jax.jit
    def nats(tokens: jax.Array) -> jax.Array:
        logprobs = jax.nn.log_softmax(forward(params, config, tokens[:, :-1]), axis=-1)
        return jnp.take_along_axis(logprobs, tokens[:, 1:, None], axis=-1)[..., 0]

    def score(items: Sequence[Sequence[Asked]]) -> list[float]:
        found = []
        for start in range(0, len(items), batch_items):
            rows = [
                (len(a.context), a.context + c)
                for item in items[start : start + batch_items]
                for a in item
                for c in a.continuations
            ]
            width = -(-max(len(tokens) for _, tokens in rows) // 8) * 8 + 1
            batch = np.zeros((len(rows), width), np.int32)
            for i, (_, tokens) in enumerate(rows):
                batch[i, : len(tokens)] = tokens
            each = np.asarray(nats(jnp.asarray(batch)))
            found += [float(each[i, n - 1 : len(t) - 1].sum()) for i, (n, t) in enumerate(rows)]
        return found

    return score


def timed(work: Callable[[], list[float]], rounds: int) -> tuple[float, float, list[float]]:
    """Processor and wall seconds of the fastest of some rounds, and what came out."""
    best = (float("inf"), float("inf"))
    out: list[float] = []
    for _ in range(rounds):
        cpu, wall = time.process_time(), time.perf_counter()
        out = work()
        best = min(best, (time.process_time() - cpu, time.perf_counter() - wall))
    return *best, out


def main() -> None:
    """Prints a line a task and the sums over the four that are asked for together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="10m")
    parser.add_argument("--items", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--tasks", default=",".join((*TOGETHER, *sorted({*REAL, *MADE} - {*TOGETHER})))
    )
    parser.add_argument("--json")
    options = parser.parse_args()
    tokenizer = load_tokenizer(f"{os.environ['LECTERN_REALDATA']}/llama2-tokenizer.model")
    shape = SHAPES[options.model]
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        head_dim=shape["embed_dim"] // shape["num_heads"],
        num_kv_heads=shape["num_heads"],
        max_seq_len=4096,
        **shape,
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    plan = layout(config, optax.identity(), mesh)
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
    scorer = Scorer(config, mesh, plan.specs, bos_id=tokenizer.bos_id)
    print(f"{num_params(config) / 1e6:.1f} M parameters, {options.items} items a task, CPU seconds")
    print(
        f"{'task':<14} {'options':>7} {'tokens':>7} {'published':>10} {'ours':>8} {'ratio':>6} "
        f"{'/options':>8} {'wall':>6} {'tree':>6} {'apart':>8}"
    )
    rows: list[dict[str, Any]] = []
    for name in options.tasks.split(","):
        items, mean_options = questions(name, tokenizer, options.items)
        flat = [entry for item in items for entry in item]
        theirs = published(params, config, BATCH.get(name, 4))

        def ours(flat: list[Asked] = flat) -> list[float]:
            return [x for scored in scorer.score(params, flat) for x in scored.logprobs]

        ours()
        theirs(items)
        cpu, wall, found = timed(ours, options.rounds)
        their_cpu, their_wall, expected = timed(functools.partial(theirs, items), options.rounds)
        apart = float(np.abs(np.array(found) - np.array(expected)).max())
        tokens = sum(len(e.context) + len(c) for e in flat for c in e.continuations) / len(items)
        row = {
            "task": name,
            "options": mean_options,
            "tokens": tokens,
            "published": their_cpu,
            "ours": cpu,
            "ratio": their_cpu / cpu,
            "of_options": their_cpu / cpu / mean_options,
            "wall": their_wall / wall,
            "tree_tokens": (scorer.counts["slots"] + scorer.counts["prefix"]) / len(items),
            "apart": apart,
        }
        rows.append(row)
        print(
            f"{name:<14} {mean_options:7.1f} {tokens:7.0f} {their_cpu:10.2f} {cpu:8.2f} {row['ratio']:6.2f} "
            f"{row['of_options']:8.2f} {row['wall']:6.2f} {row['tree_tokens']:6.0f} {apart:8.1e}",
            flush=True,
        )
    four = [row for row in rows if row["task"] in TOGETHER]
    if len(four) == len(TOGETHER):
        ratio = sum(r["published"] for r in four) / sum(r["ours"] for r in four)
        print(f"over {', '.join(TOGETHER)}: {ratio:.2f}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"model": options.model, "rows": rows}, file)


if __name__ == "__main__":
    main()
