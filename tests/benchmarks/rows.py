"""Our training step against MaxText's, by the TPU compiler, at equal model, slice, rows, precision and optimizer.

    python tests/benchmarks/rows.py [ROW ...] [key.path=value ...]

Needs the `plan` extra. Overrides are of the recipe, such as train.remat=qkv; what is compiled stays in
build/plans. MaxText's figures are in maxtext.yaml. Its step gets the same time model; which of its
gathers are asynchronous is not known, so all of them count as hidden, in its favour.
"""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Compiles and prints a Markdown table."""
    from tpu.topology import without_tpu

    without_tpu()
    import yaml

    from configs.load import user_errors
    from tpu.compile import CACHE
    from tpu.plan import plan
    from tpu.topology import generation_of

    table = yaml.safe_load(Path(__file__).with_name("maxtext.yaml").read_text())
    overrides = [word for word in sys.argv[1:] if "=" in word]
    names = [word for word in sys.argv[1:] if "=" not in word] or list(table)
    print(
        "| row | remat | peak GiB | matmul TF | / MaxText | Gcyc | / MaxText | ring GB | / MaxText | kernel calls "
        "| tokens/s/chip | / MaxText |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in names:
        row = table[name]
        with user_errors():
            found = plan(_recipe(row, overrides), row["topology"], cache=CACHE)
        ours = found["steps"]["train"]
        speed = ours["tokens_per_second_per_chip"]
        seconds = baseline_seconds(row, generation_of(row["topology"]))
        theirs = row["rows"] * row["seq_len"] / seconds if seconds else None
        columns = [
            f"{ours[key] / unit:.{digits}f} | {_ratio(ours[key], row.get(key))}"
            for key, unit, digits in (
                ("matmul_flops", 1e12, 1),
                ("estimated_cycles", 1e9, 3),
                ("ring_bytes", 1e9, 1),
            )
        ]
        print(
            f"| {name} | {ours['settings']['remat']} | {ours['peak_bytes'] / 2**30:.2f} | {' | '.join(columns)} "
            f"| {ours['kernel_calls']} | {speed:,.0f} | {_ratio(speed, theirs)} |",
            flush=True,
        )


def baseline_seconds(row: dict[str, Any], generation: Any) -> float | None:
    """A step of MaxText's under the time model: its all-reduces span the slice, along both axes of the torus.

    None where its cycles are not known.
    """
    from tpu.topology import described

    if "estimated_cycles" not in row:
        return None

    size = len(described(row["topology"]))
    attention = (
        row["kernel_flops"] / 2 / (generation.peak_tflops * 1e12 * generation.attention_share)
    )
    reduced = 2 * row["all_reduce_bytes"] * (size - 1) / size / (4 * generation.ici_gbps * 1e9)
    return row["estimated_cycles"] / (generation.clock_ghz * 1e9) + attention + reduced


def _ratio(ours: float, theirs: float | None) -> str:
    return "-" if theirs is None else f"{ours / theirs:.3f}"


def _recipe(row: dict[str, Any], overrides: list[str]) -> Any:
    import tempfile

    from configs.load import load_recipe, recipe_yaml
    from configs.recipe import TrainRecipe
    from tpu.compiled import recipe_of

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(recipe_yaml(recipe_of(row)))
        file.flush()
        return load_recipe(TrainRecipe, file.name, overrides)


if __name__ == "__main__":
    main()
