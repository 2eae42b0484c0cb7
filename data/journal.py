"""A journal of finished completions: a job that was killed and started again pays for none twice.

Completions are kept by the digest of their prompt (its text and its sampling, not its id), in whole
files that are never changed: that is all object storage can do, and what a killed process leaves is
a journal of what it had finished. Failed requests are not kept; a job that goes on asks them again.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

from etils import epath

from data import rows as rows_lib
from data.generator import Completion, Generate, Prompt

EVERY = 1000  # completions to a file
SECONDS = 20.0  # and no more of them are lost than were finished in this time


def digest(prompt: Prompt, key: str = "") -> str:
    """Stands for all that a prompt's completion depends on; `key` says which model is asked."""
    record = asdict(prompt)
    del record["id"]
    return hashlib.blake2b(rows_lib.to_json([key, record]).encode(), digest_size=16).hexdigest()


def journaled(
    generate: Generate,
    place: str,
    *,
    key: str = "",
    every: int | None = None,
    seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Generate:
    """`generate` with a journal: what is in it is given from it, the rest is asked and then kept.

    Args:
        generate: what is asked.
        place: how the paths of the journal's files begin (`work/part-00003-synthesis`); one process
            at a time may write there.
        key: names the model: the answers of another one are not taken for this one's.
        every: a file is written after so many completions (EVERY),
        seconds: or after so long (SECONDS),
        clock: on this clock.
    """
    most, longest = every or EVERY, SECONDS if seconds is None else seconds

    def run(prompts: Iterable[Prompt]) -> Iterator[Completion]:
        known = {line["digest"]: line["completion"] for line in _read(place)}
        waiting: dict[str, str] = {}
        ready: list[Completion] = []
        kept: list[str] = []
        written = clock()

        def unknown() -> Iterator[Prompt]:
            for prompt in prompts:
                name = digest(prompt, key)
                if name in known:
                    record = known[name] | {"logprobs": tuple(known[name]["logprobs"])}
                    ready.append(Completion(**record | {"id": prompt.id}))
                else:
                    waiting[prompt.id] = name
                    yield prompt

        try:
            for completion in generate(unknown()):
                yield from _drain(ready)
                name = waiting.pop(completion.id)
                if completion.finish != "error":
                    record = asdict(replace(completion, id=""))
                    kept.append(rows_lib.to_json({"digest": name, "completion": record}))
                if len(kept) >= most or clock() - written >= longest:
                    _write(place, kept)
                    written = clock()
                yield completion
            yield from _drain(ready)
        finally:
            _write(place, kept)

    return run


def _drain(ready: list[Completion]) -> Iterator[Completion]:
    while ready:
        yield ready.pop()


def _files(place: str) -> list[epath.Path]:
    path = epath.Path(place)
    return (
        sorted(path.parent.glob(f"{path.name}-journal-*.jsonl.zst")) if path.parent.exists() else []
    )


def _read(place: str) -> Iterator[dict[str, Any]]:
    for file in _files(place):
        yield from map(json.loads, rows_lib.read_lines(file))


def _write(place: str, lines: list[str]) -> None:
    """One more file of the journal; the lines are taken away."""
    if lines:
        number = len(_files(place))
        rows_lib.write_lines(f"{place}-journal-{number:06d}.jsonl.zst", lines)
        lines.clear()
