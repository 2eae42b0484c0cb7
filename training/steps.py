"""Which steps a run directory holds, which of them are known to be damaged, and what each says of itself.

Nothing here touches a device or needs the run's mesh, so the export and evaluation commands ask the same questions
as the training run and get the same answers. All files are written whole: object storage can do nothing else.
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from orbax.checkpoint.path import step as orbax_step

FORMAT = 1

_BAD = "bad.json"
_log = logging.getLogger(__name__)


class CorruptCheckpoint(Exception):
    """A committed step cannot be read back as it was written."""

    def __init__(self, run_dir: str, step: int, reason: str) -> None:
        super().__init__(f"checkpoint step {step} of {run_dir} is damaged: {reason}")
        self.run_dir, self.step, self.reason = str(run_dir), step, reason


def checkpoints_dir(run_dir: str) -> epath.Path:
    """Where the steps lie; absolute when local."""
    path = epath.Path(run_dir)
    if "://" not in str(run_dir):
        path = path.expanduser().resolve()
    return path / "checkpoints"


def committed_steps(run_dir: str) -> list[int]:
    """Every finished step, ascending, damaged ones included. Steps half written by a killed run do not count."""
    names = orbax_step.standard_name_format()
    return sorted(found.step for found in names.find_all(checkpoints_dir(run_dir)))


def good_steps(run_dir: str) -> list[int]:
    """Finished steps not recorded as damaged, ascending."""
    bad = bad_steps(run_dir)
    return [step for step in committed_steps(run_dir) if step not in bad]


def bad_steps(run_dir: str) -> dict[int, str]:
    """Steps recorded as damaged, with what was wrong."""
    path = checkpoints_dir(run_dir) / _BAD
    if not path.exists():
        return {}
    try:
        return {int(step): entry["reason"] for step, entry in json.loads(path.read_text()).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # Only a list of known damage: without it every step is checked again, and nothing is trusted more.
        _log.error("%s is unreadable (%s); damaged steps will be found anew", path, error)
        return {}


def record_bad(run_dir: str, step: int, reason: str) -> None:
    """Writes down that a step is damaged, so that nobody chooses it again. One process calls it."""
    entry = {"reason": reason, "found": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    _write_bad(run_dir, lambda entries: entries | {str(step): entry})


def forget_bad(run_dir: str, step: int) -> None:
    """Takes a step off the list of damaged ones, when its files are gone and the step is to be written again."""
    _write_bad(run_dir, lambda entries: {k: v for k, v in entries.items() if k != str(step)})


def sealed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """`meta` as JSON gives it back, with a hash over the rest, since files of numbers rot like any other."""
    plain = json.loads(json.dumps({k: v for k, v in meta.items() if k != "sha256"}))
    return {**plain, "sha256": _hash(plain)}


def read_meta(run_dir: str, step: int) -> dict[str, Any]:
    """What a step says of itself: recipe, rows given, data, model, tokenizer, digests, versions.

    Raises:
        ValueError: There is no such step.
        CorruptCheckpoint: The file is missing or is not what was written.
    """
    folder = checkpoints_dir(run_dir) / str(step)
    if not folder.exists():
        have = ", ".join(map(str, committed_steps(run_dir))) or "none"
        raise ValueError(f"{run_dir} has no checkpoint of step {step}; steps there: {have}")
    path = folder / "meta" / "metadata"
    try:
        meta = json.loads(path.read_bytes())
        seal = meta.pop("sha256")
    except FileNotFoundError as error:
        raise CorruptCheckpoint(run_dir, step, f"file {path} is missing") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        reason = f"file {path} is not the JSON that was written: {error}"
        raise CorruptCheckpoint(run_dir, step, reason) from error
    if _hash(meta) != seal:
        reason = f"file {path}: its digest differs from the one it carries"
        raise CorruptCheckpoint(run_dir, step, reason)
    if meta.get("format") != FORMAT:
        raise ValueError(
            f"{path}: checkpoint format {meta.get('format')}, this version reads {FORMAT}"
        )
    return {**meta, "sha256": seal}


def newest_meta(run_dir: str) -> dict[str, Any] | None:
    """What the newest readable good step says of itself; None where there is none.

    A step that cannot be read is passed over without a word: whoever restores will say it.
    """
    for step in reversed(good_steps(run_dir)):
        try:
            return read_meta(run_dir, step)
        except CorruptCheckpoint:
            continue
    return None


def _hash(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _write_bad(run_dir: str, change: Any) -> None:
    path = checkpoints_dir(run_dir) / _BAD
    try:
        entries = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        entries = {}
    path.write_text(json.dumps(change(entries), indent=1, sort_keys=True) + "\n")
