"""Tries settings of a training step and keeps the best: which, by how much, and why.

One dimension after the other is varied around the best settings so far: rows a device and step (only
when asked: they change the training), what is kept, the loss's chunk, rows a pass (`train.accumulate`),
the mesh, the attention's blocks, the compiler's flags. Settings whose rough memory has no chance are left out.
Everything compiled is in the cache, so a search that was stopped goes on where it was.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tpu.settings import FILE
from tpu.topology import Generation, described, generation_of, versions

GIB = 2**30
Override = dict[str, Any]  # recipe key -> value


def search(
    recipe: Any,
    topology: str,
    *,
    cache: Path | None,
    rows: list[int],
    budget: int,
) -> dict[str, Any]:
    """Searches, prints as it goes, and gives what was tried with the best of it.

    Args:
        recipe: `configs.recipe.TrainRecipe`; what it says is where the search begins.
        topology: its name.
        cache: folder of earlier compilations.
        rows: rows a device and step to try besides the recipe's own; none keeps the global batch.
        budget: programs compiled at most, those in the cache included.

    Raises:
        ValueError: nothing that was tried fits.
    """
    from tpu.plan import quiet_locations

    generation = generation_of(topology)
    devices = described(topology, slices=recipe.mesh.slices)
    quiet_locations()
    tried: dict[str, dict[str, Any]] = {}

    def attempt(overrides: Override) -> dict[str, Any]:
        key = _words(overrides)
        if key not in tried:
            tried[key] = _attempt(recipe, overrides, devices, generation, cache)
            print(_line(key, tried[key]), flush=True)
        return tried[key]

    best: Override = {"train.remat": "attention"}
    best_speed = attempt(best).get("tokens_per_second_per_chip", 0.0)
    dimensions = _dimensions(recipe, devices, generation, rows)
    start = time.monotonic()
    for _, values in dimensions:
        for value in values(best):
            if len(tried) >= budget:
                break
            found = attempt(best | value)
            speed = found.get("tokens_per_second_per_chip", 0.0)
            if speed > best_speed:
                best, best_speed = best | value, speed
    if not best_speed:
        raise ValueError(f"--search: none of {len(tried)} settings fits on {topology}")
    result = {
        "topology": topology,
        "slices": recipe.mesh.slices,
        "versions": versions(),
        "search_seconds": round(time.monotonic() - start),
        "overrides": _words(best),
        "tried": [{"overrides": key} | _kept(found) for key, found in tried.items()],
        "steps": {"train": tried[_words(best)]},
    }
    print(report(result))
    return result


def report(result: dict[str, Any]) -> str:
    """The frontier of speed against memory, the winner and what makes it so."""
    fits = [t for t in result["tried"] if "peak_bytes" in t]
    fits.sort(key=lambda t: -t["tokens_per_second_per_chip"])
    frontier, least = [], float("inf")
    for one in fits:
        if one["peak_bytes"] < least:
            frontier.append(one)
            least = one["peak_bytes"]
    lines = ["", "frontier: nothing tried is faster in less memory", ""]
    lines += [
        f"{'tokens/s/chip':>14}  {'GiB':>6}  settings",
        *(
            f"{one['tokens_per_second_per_chip']:14,.0f}  {one['peak_bytes'] / GIB:6.2f}  {one['overrides']}"
            for one in frontier
        ),
    ]
    winner = fits[0]
    lines += ["", f"best: {winner['overrides']}"]
    for other in fits[1:4]:
        lines.append(f"  {_why(winner, other)}")
    lines += ["", "as overrides of the recipe:", f"  {result['overrides']}"]
    return "\n".join(lines)


def nearest(recipe: Any, train: Any, mesh: Any, generation: Generation, needed: float) -> str:
    """Settings next to ones that do not fit that should: the sum, held to what the compiler said."""
    from tpu.memory import need
    from tpu.mesh import axis_sizes
    from tpu.programs import model_of

    config, sizes = model_of(recipe), axis_sizes(recipe.mesh, mesh.size)
    ways = sizes["slices"] * sizes["data"] * sizes["fsdp"]
    # How far the compiler was above the sum.
    excess = max(needed - need(config, train, sizes), 0.0)
    rows = train.global_batch_rows // ways
    changes: list[Override] = [{"remat": "attention"}]
    changes += [{"remat": "attention", "loss_chunk": 512}]
    changes += [
        {"remat": "attention", "loss_chunk": 512, "accumulate": passes}
        for passes in range(train.accumulate + 1, rows + 1)
        if rows % passes == 0
    ]
    changes += [{"remat": "attention", "loss_chunk": 512, "offload": "attention"}]
    changes += [
        {"remat": "attention", "loss_chunk": 512, "accumulate": 1, "global_batch_rows": ways}
    ]
    for change in changes:
        changed = train.model_copy(update=change)
        if changed != train and need(config, changed, sizes) + excess <= generation.capacity:
            said = " ".join(
                f"train.{k}={str(v).lower()}" for k, v in change.items() if getattr(train, k) != v
            )
            return f"the nearest settings that should: {said}"
    tensor = next((t for t in (2, 4, 8) if config.num_kv_heads % t == 0 and sizes["tensor"] < t), 0)
    if tensor:
        split = {**sizes, "tensor": tensor, "fsdp": max(mesh.size // tensor, 1)}
        least = train.model_copy(
            update={
                "remat": "attention",
                "loss_chunk": 512,
                "global_batch_rows": ways // tensor or 1,
            }
        )
        if need(config, least, split) + excess <= generation.capacity:
            return (
                f"the nearest settings that should: mesh.tensor={tensor} mesh.fsdp=-1 "
                f"train.remat=attention train.loss_chunk=512 "
                f"train.global_batch_rows={least.global_batch_rows}"
            )
    return "no setting near these should: take a larger slice, or shorter rows (train.seq_len)"


def _dimensions(recipe: Any, devices: list[Any], generation: Generation, rows: list[int]) -> Any:
    """(name, values given the best so far), in the order in which they are tried."""
    from tpu.mesh import axis_sizes
    from tpu.programs import model_of

    table = yaml.safe_load(FILE.read_text())["search"]
    config = model_of(recipe)
    sizes = axis_sizes(recipe.mesh, len(devices))
    ways = sizes["slices"] * sizes["data"] * sizes["fsdp"]

    def batches(best: Override) -> Iterator[Override]:
        yield from ({"train.global_batch_rows": n * ways} for n in rows)

    def passes(best: Override) -> Iterator[Override]:
        each = best.get("train.global_batch_rows", recipe.train.global_batch_rows) // ways
        yield from ({"train.accumulate": n} for n in range(1, each + 1) if each % n == 0)

    def kept(best: Override) -> Iterator[Override]:
        yield from ({"train.remat": name} for name in table["remat"])

    def meshes(best: Override) -> Iterator[Override]:
        for tensor in table["tensor"]:
            if tensor > 1 and config.num_kv_heads % tensor == 0 and len(devices) % tensor == 0:
                yield {"mesh.tensor": tensor, "mesh.fsdp": -1}
        if sizes["tensor"] == sizes["sequence"] == sizes["data"] == 1:
            yield {"mesh.fsdp_axes": [sizes["fsdp"], 1]}
            if sizes["fsdp"] % 2 == 0 and sizes["fsdp"] > 2:
                yield {"mesh.data": 2, "mesh.fsdp": -1}

    def blocks(best: Override) -> Iterator[Override]:
        yield from ({"train.attention_blocks": pair} for pair in table["attention_blocks"])

    def chunks(best: Override) -> Iterator[Override]:
        yield from ({"train.loss_chunk": size} for size in table["loss_chunk"])

    def flags(best: Override) -> Iterator[Override]:
        for one in table["flags"].get(generation.kind, []):
            yield {"train.compiler_flags": best.get("train.compiler_flags", {}) | one}

    return [
        ("rows", batches),
        ("remat", kept),
        ("loss_chunk", chunks),
        ("accumulate", passes),
        ("mesh", meshes),
        ("blocks", blocks),
        ("flags", flags),
    ]


def _attempt(
    recipe: Any,
    overrides: Override,
    devices: list[Any],
    generation: Generation,
    cache: Path | None,
) -> dict[str, Any]:
    """The figures of some settings, or {"why_not": ...}."""
    from pydantic import ValidationError

    from tpu.compile import DoesNotFit, figures, flags_of
    from tpu.memory import need
    from tpu.mesh import axis_sizes, make_mesh
    from tpu.programs import model_of, train_step
    from tpu.settings import settle

    try:
        changed = _changed(recipe, overrides)
        mesh = make_mesh(changed.mesh, devices)
        (train,) = settle(changed.train, generation.kind, need=lambda _: 0.0, capacity=None)
        rough = need(model_of(changed), train, axis_sizes(changed.mesh, len(devices)))
        if rough > 1.15 * generation.capacity:
            return {"why_not": f"about {rough / GIB:.1f} GiB, not compiled"}
        flags = flags_of(devices[0], changed.train.compiler_flags)
        return figures(train_step(changed, train, mesh), generation, flags, cache=cache)
    except DoesNotFit as error:
        return {"why_not": str(error)}
    except ValidationError as error:
        return {"why_not": "; ".join(e["msg"] for e in error.errors())}
    except ValueError as error:  # does not divide, or a flag is refused
        return {"why_not": str(error)}


def _changed(recipe: Any, overrides: Override) -> Any:
    """The recipe with overrides, checked as if it had been written so."""
    data = recipe.model_dump(mode="json")
    for path, value in overrides.items():
        room, key = path.split(".")
        data[room][key] = value
    return type(recipe).model_validate(data)


def _words(overrides: Override) -> str:
    """As they are written on a command line."""
    said = []
    for path, value in overrides.items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
        text = text.removesuffix("...").strip()
        said.append(f"'{path}={text}'" if " " in text else f"{path}={text}")
    return " ".join(said)


def _kept(found: dict[str, Any]) -> dict[str, Any]:
    keys = ("why_not", "tokens_per_second_per_chip", "peak_bytes", "step_seconds", "seconds")
    return {key: found[key] for key in keys if key in found}


def _line(key: str, found: dict[str, Any]) -> str:
    if "why_not" in found:
        return f"{'-':>14}  {'':6}  {key}: {found['why_not']}"
    speed, peak = found["tokens_per_second_per_chip"], found["peak_bytes"] / GIB
    return f"{speed:14,.0f}  {peak:6.2f}  {key}"


def _why(winner: dict[str, Any], other: dict[str, Any]) -> str:
    """Which part of the time makes the difference to another one."""
    gain = winner["tokens_per_second_per_chip"] / other["tokens_per_second_per_chip"] - 1
    # Shares of a step: settings may differ in rows.
    share = {
        part: other["seconds"][part] / other["step_seconds"]
        - winner["seconds"][part] / winner["step_seconds"] / (1 + gain)
        for part in winner["seconds"]
    }
    parts = sorted(share.items(), key=lambda item: -abs(item[1]))[:2]
    said = ", ".join(f"{part} {-100 * value:+.1f} %" for part, value in parts)
    return f"{gain:+.1%} against {other['overrides']}: {said} of its step"
