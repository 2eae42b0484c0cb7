"""The table of models and slices that are known to fit, and its check.

    python -m tpu.compiled                  what compiled.json says
    python -m tpu.compiled NAME ...         compiles these rows of compiled.yaml and writes them down
    python -m tpu.compiled --all            all rows, as `make plans`
    python -m tpu.compiled --check          compiles again what has changed since, and three rows drawn at random

A row of compiled.json carries the digest of its lowered module with the flags and the versions of jax and
libtpu, so that a change of the step, the flags or the compiler shows without compiling. `--most N` bounds
what a check compiles, `--seed N` fixes what it draws. Exit code 1: a row does not fit, or has no figures.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tpu.topology import described, generation_of, require_compiler, versions, without_tpu

ROWS = Path(__file__).with_name("compiled.yaml")
FILE = Path(__file__).with_name("compiled.json")
KEPT = (
    "peak_bytes",
    "state_bytes",
    "estimated_cycles",
    "matmul_flops",
    "ring_bytes",
    "kernel_calls",
    "step_seconds",
    "tokens_per_second_per_chip",
    "compile_seconds",
    "host_rss_bytes",
)
TOLERANCE = 0.01  # of the peak, when the same module is compiled again


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line; returns the exit code."""
    from configs.load import user_errors

    parser = argparse.ArgumentParser(
        prog="python -m tpu.compiled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="rows of tpu/compiled.yaml")
    parser.add_argument("--all", action="store_true", help="compile every row")
    parser.add_argument("--check", action="store_true", help="compile what changed, and a sample")
    parser.add_argument("--sample", type=int, default=3, help="rows that a check draws")
    parser.add_argument("--most", type=int, help="rows that a check compiles at most")
    parser.add_argument("--seed", type=int, help="of the draw; the time of day by default")
    given = parser.parse_args(argv)
    with user_errors():
        rows = yaml.safe_load(ROWS.read_text())["rows"]
        known = json.loads(FILE.read_text()) if FILE.exists() else {}
        unknown = [name for name in given.names if name not in rows]
        if unknown:
            raise ValueError(f"no row {', '.join(unknown)} in {ROWS.name}; of {', '.join(rows)}")
        if not (given.names or given.all or given.check):
            print(table(known))
            return 0
        without_tpu()
        require_compiler()
        from tpu.compile import CACHE

        if given.check:
            return _check(rows, known, given)
        for name in given.names or rows:
            found = _compiled(name, rows[name], cache=CACHE)
            # Read and written after every row: a table that was stopped, or filled by two, keeps what it has.
            known = (json.loads(FILE.read_text()) if FILE.exists() else {}) | {name: found}
            order = {n: known[n] for n in rows if n in known}
            FILE.write_text(json.dumps(order, indent=1) + "\n")
        return int(any("does_not_fit" in known[name] for name in given.names or rows))


def table(known: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| model | slice | rows x tokens a device | remat | state, peak (GiB) | s a step | compiled in |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in known.values():
        slices = {"slices": row["slices"]} if row["slices"] > 1 else {}
        axes = "".join(f", {name} {size}" for name, size in (slices | row.get("mesh", {})).items())
        where = (
            f"| {row['model']} | {row['topology']}{axes} | {row['rows']:g} x {row['seq_len']:,} |"
        )
        if "does_not_fit" in row:
            lines.append(f"{where} does not fit: {row['does_not_fit']} | | | |")
            continue
        lines.append(
            f"{where} {row['remat']} | {row['state_bytes'] / 2**30:.2f}, {row['peak_bytes'] / 2**30:.2f} "
            f"| {row['step_seconds']:.2f} | {row['compile_seconds']:.0f} s, {row['host_rss_bytes'] / 2**30:.1f} GiB |"
        )
    return "\n".join(lines)


def recipe_of(row: dict[str, Any]) -> Any:
    """The training recipe that a row means."""
    from configs.load import load_recipe
    from configs.recipe import TrainRecipe

    mesh = {"slices": row.get("slices", 1)} | row.get("mesh", {})
    if "recipe" in row:
        words = [f"mesh.{name}={value}" for name, value in mesh.items()]
        return load_recipe(TrainRecipe, row["recipe"], words)
    devices = len(described(row["topology"], slices=mesh["slices"]))
    return TrainRecipe.model_validate(
        {
            "run_dir": "runs/plan",
            "tokenizer": "none",
            "model": {"preset": row["preset"]},
            "streams": {"one": {"path": "none"}, "two": {"path": "none"}},
            "train": {
                "num_steps": 1000,
                "global_batch_rows": round(row["rows"] * devices),
                "seq_len": row["seq_len"],
                "grad_reduce_dtype": "bfloat16",
            },
            "mesh": mesh,
        }
    )


def _compiled(name: str, row: dict[str, Any], *, cache: Path | None) -> dict[str, Any]:
    """Compiles a row with the first of its settings that fits."""
    from tpu.plan import plan

    start = time.monotonic()
    recipe = recipe_of(row)
    devices = len(described(row["topology"], slices=recipe.mesh.slices))
    adapters = f", adapters of rank {recipe.model.lora.rank}" if recipe.model.lora else ""
    about = {
        "model": f"{recipe.model.preset}{adapters}",
        "topology": row["topology"],
        "slices": recipe.mesh.slices,
        "mesh": row.get("mesh", {}),
        "rows": recipe.train.global_batch_rows / devices,
        "seq_len": recipe.train.seq_len,
        "versions": versions(),
    }
    try:
        step = plan(recipe, row["topology"], cache=cache)["steps"]["train"]
    except ValueError as error:
        if "does not fit" not in str(error):
            raise
        print(f"{name}: {error}", flush=True)
        return about | {"does_not_fit": str(error).partition("does not fit: ")[2]}
    print(
        f"{name}: {step['peak_bytes'] / 2**30:.2f} GiB at the peak, {time.monotonic() - start:.0f} s",
        flush=True,
    )
    settings = {"remat": step["settings"]["remat"], "flags": step["flags"]}
    return about | settings | {"digest": step["digest"]} | {key: step[key] for key in KEPT}


def _check(rows: dict[str, Any], known: dict[str, Any], given: argparse.Namespace) -> int:
    """Compiles again what changed and a sample of the rest."""
    settled = [name for name in rows if name in known and "digest" in known[name]]
    changed = [
        name for name in settled if _digest(rows[name], known[name]) != known[name]["digest"]
    ]
    same = [name for name in settled if name not in changed]
    drawn = random.Random(given.seed).sample(same, min(given.sample, len(same)))
    due = [*changed, *drawn][: given.most]
    without = [name for name in rows if name not in known]
    print(
        f"{len(settled)} rows; changed: {', '.join(changed) or 'none'}; drawn: {', '.join(drawn)}"
    )
    for name in without:
        print(f"{name}: no figures; python -m tpu.compiled {name}")
    left = [name for name in (*changed, *drawn) if name not in due]
    if left:
        print(f"not compiled this time: {', '.join(left)}")
    wrong = []
    for name in due:
        found = _compiled(name, rows[name], cache=None)
        if "does_not_fit" in found:
            wrong.append(f"{name}: does not fit any more: {found['does_not_fit']}")
        elif name in same:
            before, after = known[name]["peak_bytes"], found["peak_bytes"]
            if abs(after / before - 1) > TOLERANCE:
                wrong.append(f"{name}: {after:,} bytes at the peak, {before:,} in {FILE.name}")
    if changed:
        print("write the changed rows down: make plans")
    print(*wrong, sep="\n")
    return int(bool(wrong or not settled))


def _digest(row: dict[str, Any], known: dict[str, Any]) -> str:
    """The digest that a row's program has now, with the settings that were found to fit."""
    from tpu import programs
    from tpu.compile import digest_of, flags_of
    from tpu.mesh import make_mesh
    from tpu.plan import quiet_locations
    from tpu.settings import settle

    recipe = recipe_of(row)
    generation = generation_of(row["topology"])
    devices = described(row["topology"], slices=recipe.mesh.slices)
    quiet_locations()
    mesh = make_mesh(recipe.mesh, devices)
    given = recipe.train.model_copy(update={"remat": known["remat"]})
    (train,) = settle(given, generation.kind, need=lambda _: 0.0, capacity=None)
    flags = flags_of(devices[0], train.compiler_flags)
    text = programs.train_step(recipe, train, mesh).traced.lower().as_text()
    return digest_of(text, flags)


if __name__ == "__main__":
    sys.exit(main())
