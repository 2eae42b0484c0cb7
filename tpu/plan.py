"""Says before a TPU is rented whether a recipe fits, how fast it should go and what it would cost.

The steps that `train.py` runs are compiled by the real TPU compiler, which needs no TPU: extra `plan`. No data and
no weights are read, so `model.preset` (or a whole shape) must say what the model is.

    python -m tpu.plan RECIPE --topology v5e:16x16                       the training step
    python -m tpu.plan RECIPE --topology v5e:16x16 --steps train,eval,decode --json plan.json
    python -m tpu.plan RECIPE --topology v5e:16x16 --search              which settings are best
    python -m tpu.plan --compare A.json B.json

Exit code 1: it does not fit, or something is wrong with the recipe or the topology.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tpu.topology import (
    Generation,
    described,
    generation_of,
    require_compiler,
    versions,
    without_tpu,
)

GIB = 2**30
DAY = 86_400
# Figures of a step that a comparison shows, and that stand at the top of the JSON for the training step.
KEYS = (
    "estimated_cycles",
    "peak_bytes",
    "state_bytes",
    "matmul_flops",
    "ring_bytes",
    "kernel_calls",
    "step_seconds",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line, plans, prints; returns the exit code."""
    from configs.load import Flag, command, user_errors
    from configs.recipe import TrainRecipe

    words = list(sys.argv[1:] if argv is None else argv)
    with user_errors():
        if "--compare" in words:
            return _compare_files(words[words.index("--compare") + 1 :])
    flags = [
        Flag("topology", "slice to compile for, such as v5e:16x16", "NAME"),
        Flag("slices", "slices joined by the data-centre network; mesh.slices by default", "N"),
        Flag("steps", "of train, eval, decode; train by default", "NAMES"),
        Flag("slots", "sequences that the decode step writes at once; 32 by default", "N"),
        Flag("search", "try settings, print the best ones and what makes them so"),
        Flag("rows", "with --search: rows per device and step to try, such as 2,4", "NUMBERS"),
        Flag("budget", "with --search: compilations at most; 24 by default", "N"),
        Flag("json", "file to write the figures to", "FILE"),
        Flag("cache", "folder of earlier compilations; build/plans by default", "DIR"),
        Flag("compare", "two files of --json, instead of a recipe: what differs", "A.json B.json"),
    ]
    for at, word in enumerate(words):
        if word.partition("=")[0] == "--slices":
            number = word.partition("=")[2] or "".join(words[at + 1 : at + 2])
            words.append(f"mesh.slices={number}")
            break
    recipe, options = command(TrainRecipe, words, __doc__ or "", flags=flags)
    given = options.flags
    with user_errors():
        if given["topology"] is None:
            raise ValueError(f"--topology: missing; {_topologies()}")
        generation_of(given["topology"])
        without_tpu()
        require_compiler()
        from tpu.compile import CACHE

        cache = Path(given["cache"]) if given["cache"] else CACHE
        if given["search"]:
            from tpu.search import search

            found = search(
                recipe,
                given["topology"],
                cache=cache,
                rows=_numbers("rows", given["rows"]),
                budget=(_numbers("budget", given["budget"]) or [24])[0],
            )
        else:
            steps = (given["steps"] or "train").split(",")
            slots = (_numbers("slots", given["slots"]) or [32])[0]
            found = plan(recipe, given["topology"], steps=steps, slots=slots, cache=cache)
            print(describe(found))
        if given["json"]:
            Path(given["json"]).write_text(json.dumps(found, indent=1) + "\n")
    return 0


def plan(
    recipe: Any,
    topology: str,
    *,
    steps: Sequence[str] = ("train",),
    slots: int = 32,
    cache: Path | None = None,
) -> dict[str, Any]:
    """The figures of a recipe's steps on so many slices of a topology.

    Args:
        recipe: `configs.recipe.TrainRecipe`.
        topology: its name.
        steps: of `tpu.programs.STEPS`.
        slots: sequences of the decode step.
        cache: folder of earlier compilations.

    Raises:
        ValueError: it does not fit (with the nearest settings that should), does not divide, or the
            topology or a flag is unknown to the compiler.
    """
    from tpu import programs
    from tpu.compile import figures, flags_of
    from tpu.mesh import describe as describe_mesh
    from tpu.mesh import make_mesh
    from tpu.settings import choices

    unknown = [name for name in steps if name not in programs.STEPS]
    if unknown:
        raise ValueError(f"--steps: no step {', '.join(unknown)}; of {', '.join(programs.STEPS)}")
    generation = generation_of(topology)
    devices = described(topology, slices=recipe.mesh.slices)
    quiet_locations()
    mesh = make_mesh(recipe.mesh, devices)
    flags = flags_of(devices[0], recipe.train.compiler_flags)
    found: dict[str, Any] = {}
    settled = recipe.train
    if "train" in steps or "eval" in steps:
        open_settings = choices(recipe.train, programs.model_of(recipe), recipe.mesh, mesh)
        settled = open_settings[0]
    if "train" in steps:
        found["train"], settled = _first_that_fits(
            recipe, mesh, open_settings, generation, flags, cache
        )
    if "eval" in steps:
        found["eval"] = figures(
            programs.eval_step(recipe, settled, mesh), generation, {}, cache=cache
        )
    if "decode" in steps:
        window = min(programs.model_of(recipe).max_seq_len, 4096)
        step = programs.decode_step(recipe, devices, slots=slots, window=window)
        found["decode"] = figures(step, generation, {}, cache=cache)
    first = found.get("train") or next(iter(found.values()))
    return {
        "topology": topology,
        "slices": recipe.mesh.slices,
        "devices": len(devices),
        "chips": len(devices) // generation.devices_per_chip,
        "mesh": describe_mesh(mesh),
        "model": recipe.model.preset or "a shape of its own",
        **_parameters(programs.model_of(recipe)),
        "versions": versions(),
        **{key: first[key] for key in KEYS},
        "run": _run(recipe, found.get("train"), len(devices) // generation.devices_per_chip),
        "steps": found,
    }


def describe(found: dict[str, Any]) -> str:
    """A plan in words."""
    chips = f"{found['chips']} chips" + (
        f" in {found['slices']} slices" if found["slices"] > 1 else ""
    )
    adapters = found["adapter_parameters"]
    lines = [
        f"{found['model']}, {found['parameters']:,} parameters"
        + (f" and {adapters:,} in adapters, which alone are trained" if adapters else "")
        + f", on {found['topology']} ({chips}; "
        f"{found['mesh']}); " + ", ".join(f"{n} {v}" for n, v in found["versions"].items())
    ]
    for name, step in found["steps"].items():
        lines += ["", *_lines(name, step)]
    run = found["run"]
    if run is not None:
        price = (
            f", {run['cost']:,.0f} at {run['chip_hour_price']:g} a chip and hour"
            if run["cost"] is not None
            else " (mesh.chip_hour_price would say what it costs)"
        )
        lines += ["", f"the run: {run['steps']:,} steps, {run['days']:.2f} days{price}"]
    lines.append(
        "Times follow one fixed model (docs/plan.md) and rank programs on one kind of chip; nobody measured them."
    )
    return "\n".join(lines)


def compare(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Two plans side by side, step by step, with b / a."""
    lines = [f"{'':34}{'A':>16}{'B':>16}{'B / A':>9}"]
    for name in [n for n in a["steps"] if n in b["steps"]]:
        lines.append(f"{name} ({a['topology']}, {b['topology']})")
        one, other = a["steps"][name], b["steps"][name]
        for key in (*KEYS, "remat_flops", "activation_bytes", "tokens_per_second_per_chip"):
            ratio = f"{other[key] / one[key]:9.3f}" if one[key] else f"{'':9}"
            lines.append(f"  {key:32}{_short(one[key]):>16}{_short(other[key]):>16}{ratio}")
        for key in sorted(one["settings"].keys() | other["settings"].keys()):
            before, after = one["settings"].get(key), other["settings"].get(key)
            if before != after:
                lines.append(f"  {key:32}{before!s:>16}{after!s:>16}")
        if one["flags"] != other["flags"]:
            lines.append(f"  flags: {one['flags']} | {other['flags']}")
    if len(lines) == 1:
        raise ValueError(
            f"--compare: no step in both: {', '.join(a['steps'])} | {', '.join(b['steps'])}"
        )
    return "\n".join(lines)


def quiet_locations() -> None:
    """Keeps file names and lines out of lowered modules, so that their digests speak of programs alone."""
    import jax

    jax.config.update("jax_traceback_in_locations_limit", 0)


def _first_that_fits(
    recipe: Any,
    mesh: Any,
    choices: list[Any],
    generation: Generation,
    flags: dict[str, Any],
    cache: Path | None,
) -> tuple[dict[str, Any], Any]:
    """Compiles the choices in order; says what would fit when none does."""
    from tpu import programs
    from tpu.compile import DoesNotFit, figures

    failed = None
    for train in choices:
        try:
            step = programs.train_step(recipe, train, mesh)
            return figures(step, generation, flags, cache=cache), train
        except DoesNotFit as error:
            failed = error
    assert failed is not None, "there is always a choice"
    from tpu.search import nearest

    what = (
        f"{choices[-1].global_batch_rows} rows of {choices[-1].seq_len}, remat {choices[-1].remat}"
    )
    hint = nearest(recipe, choices[-1], mesh, generation, failed.needed)
    raise ValueError(f"{what}, on {generation.name} {failed}; {hint}") from failed


def _run(recipe: Any, train: dict[str, Any] | None, chips: int) -> dict[str, Any] | None:
    """What the whole run takes, when its training step was planned."""
    if train is None or not recipe.train.num_steps:
        return None
    seconds = recipe.train.num_steps * train["step_seconds"]
    price = recipe.mesh.chip_hour_price
    return {
        "steps": recipe.train.num_steps,
        "days": seconds / DAY,
        "chip_hours": seconds / 3600 * chips,
        "chip_hour_price": price,
        "cost": None if price is None else seconds / 3600 * chips * price,
    }


def _lines(name: str, step: dict[str, Any]) -> list[str]:
    """One step in words."""
    settings = ", ".join(f"{k} {v}" for k, v in step["settings"].items())
    flags = ", ".join(f"{k}={v}" for k, v in step["flags"].items()) or "none"
    s = step["seconds"]
    lines = [
        f"{name}: {settings}; flags {flags}",
        f"  memory      {step['peak_bytes'] / GIB:.2f} GiB at the peak of {step['capacity_bytes'] / GIB:.2f} a device: "
        f"state {step['state_bytes'] / GIB:.2f}, activations and the rest {step['activation_bytes'] / GIB:.2f}",
        f"  arithmetic  {step['matmul_flops'] / 1e12:.1f} TFLOP of matrix products a device "
        f"({step['remat_flops'] / 1e12:.1f} of it computed again; the model's own {step['model_flops'] / 1e12:.1f} with attention)",
        f"  cycles      {step['estimated_cycles'] / 1e9:.3f} G by the compiler, kernels and collectives not in it; "
        f"{step['kernel_calls']} kernel calls ({', '.join(f'{n} {c}' for n, c in step['kernels'].items())})",
    ]
    for kind, c in step["collectives"].items():
        share = c["asynchronous_ring_bytes"] / c["ring_bytes"] if c["ring_bytes"] else 0
        lines.append(
            f"  {kind:18} {c['count']:5} runs, {c['ring_bytes'] / 1e9:8.3f} GB on the ring, {share:4.0%} asynchronous"
        )
    lines += [
        f"  time        {step['step_seconds']:.3f} s: cycles {s['cycles']:.3f}, attention {s['attention']:.3f}, "
        f"other kernels {s['other_kernels']:.3f}, collectives not hidden {s['collectives_not_hidden']:.3f}, "
        f"offload {s['offload']:.3f}",
        f"  speed       {step['tokens_per_second']:,.0f} tokens/s, {step['tokens_per_second_per_chip']:,.0f} a chip",
        f"  compiled in {step['compile_seconds']:.0f} s, {step['host_rss_bytes'] / GIB:.1f} GiB of host memory",
    ]
    return lines


def _compare_files(words: list[str]) -> int:
    if len(words) != 2:
        raise ValueError("--compare: name two files that --json has written")
    plans = []
    for word in words:
        try:
            found = json.loads(Path(word).read_text())
            found["steps"]
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(f"--compare: {word} is not a file of tpu.plan --json") from error
        plans.append(found)
    print(compare(*plans))
    return 0


def _parameters(config: Any) -> dict[str, int]:
    from model.llama import num_params
    from model.lora import num_trained

    return {"parameters": num_params(config), "adapter_parameters": num_trained(config)}


def _numbers(name: str, text: str | None) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ValueError(f"--{name}: {text!r} is not a list of whole numbers") from None
    if any(number < 1 for number in found):
        raise ValueError(f"--{name}: {text!r} has a number below 1")
    return found


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def _topologies() -> str:
    from tpu.topology import generations

    return "; ".join(f"{n}: {' '.join(g.layouts)}" for n, g in generations().items())


if __name__ == "__main__":
    sys.exit(main())
