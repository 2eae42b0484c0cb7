"""Whether a restart may go on: what of a recipe may change under a run, and what may not."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer

# Where a run lies, how fast it goes and what it reports are free; so is the batch, since rows are
# counted one by one. Paths are free because the contents behind them are compared by fingerprint.
_FREE = (
    "run_dir",
    "prepare",
    "tokenizer",
    "train.global_batch_rows",
    "train.accumulate",
    "train.attention",
    "train.remat",
    "train.loss_chunk",
    "train.attention_blocks",
    "train.compiler_flags",
    "train.prefetch",
    "train.stop_on_spike",
    "mesh",
    "checkpoint",
    "eval",
    "tracking",
    "export",
    "resume",
)


def differences(meta: dict[str, Any], recipe: dict[str, Any], data: dict[str, Any]) -> list[str]:
    """What differs between a checkpoint's run and this one, one "path: old -> new" a line.

    Args:
      meta: the checkpoint's; `recipe` and `data` are compared.
      recipe: the resolved recipe.
      data: the fingerprint of the run's streams and tokenizer.
    """
    lines = []
    for name, old, new in (("", meta["recipe"], recipe), ("data.", meta["data"], data)):
        before, after = dict(_flat(old)), dict(_flat(new))
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key) and not _is_free(key):
                lines.append(f"{name}{key}: {before.get(key)} -> {after.get(key)}")
    return lines


def check_unchanged(
    meta: dict[str, Any] | None, recipe: dict[str, Any], data: dict[str, Any], *, accept: bool
) -> list[str]:
    """The differences to a checkpoint's run, if they are accepted; an error that shows them if not.

    A checkpoint of initial weights alone (its deal is None) binds nothing but the model.
    """
    if meta is None:
        return []
    lines = differences(meta, recipe, data)
    if meta["deal"] is None:
        lines = [line for line in lines if line.startswith("model.")]
    if lines and not accept:
        raise ValueError(
            f"the recipe differs from the one this run began with (step {meta['step']}):\n  "
            + "\n  ".join(lines)
            + "\nTake another run_dir, undo the change, or set resume.accept_changes=true to go on."
        )
    return lines


def tokenizer_facts(tokenizer: "Tokenizer | None", streams: Sequence[Any]) -> dict[str, Any] | None:
    """What export and evaluation must know of how the run's text was tokenized; None without tokenizer.

    Raises:
      ValueError: streams begin or end their documents differently.
    """
    if tokenizer is None:
        return None
    facts = {"fingerprint": tokenizer.fingerprint, "add_bos": tokenizer.add_bos, "add_eos": True}
    for name in ("add_bos", "add_eos"):
        found = {stream.info[name] for stream in streams}
        if len(found) > 1:
            named = ", ".join(f"{s.name}: {s.info[name]}" for s in streams)
            raise ValueError(f"streams: {name} differs ({named}); prepare them alike")
        if found:
            facts[name] = found.pop()
    return facts


def deal_plan(
    meta: dict[str, Any] | None, total_rows: int, names: Sequence[str], changed: Sequence[str]
) -> dict[str, Any]:
    """From which row, with which counts and to what end the rows of a run are dealt.

    The same as before until the plan changes (another length, other streams or weights); then the
    dealing starts anew at the row reached, from the counts reached, so quotas and epochs go on.

    Args:
      meta: of the checkpoint that the run goes on from; None at its beginning.
      total_rows: rows of the whole run as the recipe now has it.
      names: the streams' names.
      changed: differences that were accepted.
    """
    if meta is None or meta["deal"] is None:
        return {"start_row": 0, "start_counts": dict.fromkeys(names, 0), "total_rows": total_rows}
    if meta["deal"]["total_rows"] == total_rows and not changed:
        return meta["deal"]
    counts = {name: meta["counts"].get(name, 0) for name in names}
    return {"start_row": meta["rows"], "start_counts": counts, "total_rows": total_rows}


def _is_free(key: str) -> bool:
    if key.startswith("streams.") and key.endswith(".path"):
        return True
    return any(key == free or key.startswith(free + ".") for free in _FREE)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value
