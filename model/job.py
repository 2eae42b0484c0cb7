"""A file of prompts to a file of texts, stopped and resumed at will.

- finished texts go to a journal, `OUT.part-N` of process N, one line each, in whatever order they come;
  OUT itself appears whole at the end, in the order of the prompts
- a job that is given again skips the ids that any journal holds. A line that was being written when
  the job was killed is cut off and done anew, so the file does not tell how often it was
- `OUT.job.json` says what was asked for (prompts, model, settings): another question with the same
  OUT is refused, not mixed in
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from data.document import Turn
from data.generator import Completion, Prompt, Sampling
from model.engine import Engine
from model.sampling import check

_FIELDS = {f.name for f in fields(Sampling)}
_SECONDS = 10.0  # between two lines of progress
Barrier = Callable[[str], None]


@dataclass(frozen=True)
class Share:
    """Which of the prompts are this process's: every `count`-th, from `index`."""

    index: int = 0
    count: int = 1
    barrier: Barrier = lambda name: None


class Job:
    """One file of prompts and what becomes of it.

    Attributes:
        total: prompts in the file.
    """

    def __init__(
        self,
        prompts: str,
        out: str,
        sampling: Sampling,
        *,
        asked: dict[str, Any],
        literal_special: bool = False,
        share: Share = Share(),
    ) -> None:
        """Reads all prompts once, so that what is wrong with them is said before any work is done.

        Args:
            prompts: JSONL; rows {"id"?, "prompt" | "messages", and settings for this row}.
            out: file to write.
            sampling: where a row says nothing else.
            asked: what else the texts depend on (the model and its settings), as JSON.
            literal_special: where a row says nothing else; see `Prompt`.
            share: of this process.

        Raises:
            ValueError: a row that is no prompt, with file and line; an `out` that cannot be used.
        """
        if "://" in out:
            raise ValueError(f"--out: {out} is no local file, and a journal grows line by line")
        self._path, self._out = Path(prompts), Path(out)
        self._sampling, self._literal, self._share = sampling, literal_special, share
        check(sampling)
        if not self._path.is_file():
            raise ValueError(f"--prompts: {prompts} is not there, or not a file")
        digest = hashlib.sha256(self._path.read_bytes()).hexdigest()
        self._asked = {
            "prompts": digest,
            "sampling": {f.name: getattr(sampling, f.name) for f in fields(Sampling)},
            "literal_special": literal_special,
            **asked,
        }
        self._asked = json.loads(json.dumps(self._asked))
        self.total = 0
        seen: set[str] = set()
        for line, prompt in self._prompts():
            if prompt.id in seen:
                raise ValueError(f"{self._path}:{line}: id: {prompt.id!r} stands there twice")
            seen.add(prompt.id)
            self.total += 1
        if not self.total:
            raise ValueError(f"--prompts: {prompts} holds no prompts")
        if not self._out.parent.is_dir():
            raise ValueError(f"--out: {self._out.parent} is no folder")
        self._check_asked()

    def is_done(self) -> bool:
        """Whether an earlier run has finished this very job."""
        return self._out.exists() and self._note.exists()

    def run(self, engine: Engine) -> dict[str, Any]:
        """Writes what is missing; returns the figures that are also shown.

        Raises:
            OSError: the disk.
        """
        if self._share.index == 0:
            self._write_whole(self._note, json.dumps(self._asked, indent=2) + "\n")
        done = self._finished()
        mine = self._out.with_name(f"{self._out.name}.part-{self._share.index}")
        _cut_back(mine)
        todo = (
            prompt
            for number, (_, prompt) in enumerate(self._prompts())
            if number % self._share.count == self._share.index and prompt.id not in done
        )
        begun = shown = time.monotonic()
        count = 0
        with mine.open("a", encoding="utf-8") as journal:
            for completion in engine.generate(todo):
                journal.write(_line(completion))
                journal.flush()
                count += 1
                if time.monotonic() - shown > _SECONDS:
                    shown = time.monotonic()
                    self._show(engine, len(done) + count, shown - begun)
        seconds = time.monotonic() - begun
        self._show(engine, len(done) + count, seconds)
        self._share.barrier("texts written")
        if self._share.index == 0:
            self._assemble()
        self._share.barrier("texts in order")
        return {"done_before": len(done), "done": count, "seconds": seconds, **engine.counts}

    # --- what is asked ---------------------------------------------------------------------------------

    def _prompts(self) -> Iterator[tuple[int, Prompt]]:
        """The prompts with their line numbers."""
        with self._path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, self._prompt(number, json.loads(line))
                    except ValueError as error:
                        raise ValueError(f"{self._path}:{number}: {error}") from error

    def _prompt(self, number: int, row: Any) -> Prompt:
        if not isinstance(row, dict):
            raise ValueError("a row is a JSON object")
        unknown = set(row) - _FIELDS - {"id", "prompt", "messages", "literal_special"}
        if unknown:
            raise ValueError(
                f"{', '.join(sorted(unknown))}: no such field; there are "
                f"id, prompt, messages, literal_special, {', '.join(sorted(_FIELDS))}"
            )
        if ("prompt" in row) == ("messages" in row):
            raise ValueError("prompt, messages: one of the two is needed")
        if "prompt" in row:
            if not isinstance(row["prompt"], str):
                raise ValueError(f"prompt: {row['prompt']!r} is not a text")
            turns: tuple[Turn, ...] = (Turn("text", row["prompt"]),)
        else:
            turns = _turns(row["messages"])
        changes = {name: _value(name, row[name], self._sampling) for name in _FIELDS & set(row)}
        sampling = replace(self._sampling, **changes)
        check(sampling)
        id_ = row.get("id", number)
        if not isinstance(id_, str | int):
            raise ValueError(f"id: {id_!r} is neither a text nor a number")
        literal = row.get("literal_special", self._literal)
        return Prompt(str(id_), turns, sampling, literal and "prompt" in row)

    def _check_asked(self) -> None:
        if not self._note.exists():
            return
        before = json.loads(self._note.read_text())
        if before != self._asked:
            keys = sorted({*before, *self._asked})
            other = [key for key in keys if before.get(key) != self._asked.get(key)]
            raise ValueError(
                f"--out: {self._out} belongs to a job with other {', '.join(other)} "
                f"({self._note} says which); name another file, or delete that one and what begins "
                "with its name"
            )

    @property
    def _note(self) -> Path:
        return self._out.with_name(f"{self._out.name}.job.json")

    # --- what is done ----------------------------------------------------------------------------------

    def _journals(self) -> list[Path]:
        return sorted(self._out.parent.glob(f"{self._out.name}.part-*"))

    def _finished(self) -> dict[str, tuple[Path, int]]:
        """Where each finished text stands: {id: (journal, offset)}."""
        places: dict[str, tuple[Path, int]] = {}
        for path in self._journals():
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        places[json.loads(line)["id"]] = (path, offset)
                    offset += len(line)
        return places

    def _assemble(self) -> None:
        """OUT from the journals, in the order of the prompts; then the journals go."""
        places = self._finished()
        files = {path: path.open("rb") for path in self._journals()}
        part = self._out.with_name(f"{self._out.name}.whole")
        try:
            with part.open("wb") as out:
                for _, prompt in self._prompts():
                    path, offset = places[prompt.id]
                    files[path].seek(offset)
                    out.write(files[path].readline())
        finally:
            for file in files.values():
                file.close()
        os.replace(part, self._out)
        for path in files:
            path.unlink()

    def _write_whole(self, path: Path, text: str) -> None:
        part = path.with_name(f"{path.name}.whole")
        part.write_text(text)
        os.replace(part, path)

    def _show(self, engine: Engine, done: int, seconds: float) -> None:
        counts, seconds = engine.counts, max(seconds, 1e-9)
        troubles = [f"{counts[name]} {name}" for name in ("errors", "cut") if counts[name]]
        print(
            f"{done}/{-(-(self.total - self._share.index) // self._share.count)} texts, "
            f"{counts['new_tokens'] / seconds:,.0f} tokens/s written, "
            f"{counts['prompt_tokens'] / seconds:,.0f} read"
            + (f" ({', '.join(troubles)})" if troubles else ""),
            file=sys.stderr,
        )


def _cut_back(journal: Path) -> None:
    """Takes off a line that was not written to its end."""
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)


def _line(completion: Completion) -> str:
    row: dict[str, Any] = {
        "id": completion.id,
        "text": completion.text,
        "finish": completion.finish,
        "num_prompt_tokens": completion.num_prompt_tokens,
        "num_tokens": completion.num_tokens,
    }
    if completion.logprobs:
        row["logprobs"] = [round(value, 6) for value in completion.logprobs]
    if completion.error:
        row["error"] = completion.error
    return json.dumps(row, ensure_ascii=False) + "\n"


def _turns(messages: Any) -> tuple[Turn, ...]:
    if not isinstance(messages, list) or not messages:
        raise ValueError('messages: a list of {"role", "content"} is needed')
    turns = []
    for message in messages:
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise ValueError(f'messages: {message!r} is not {{"role", "content"}}')
        if not isinstance(message["content"], str):
            raise ValueError(f"messages: content {message['content']!r} is not a text")
        turns.append(Turn(str(message["role"]), message["content"]))
    if turns[-1].role == "assistant":
        raise ValueError(
            "messages: the last one is the assistant's, so there is nothing to reply to"
        )
    return tuple(turns)


def _value(name: str, value: Any, sampling: Sampling) -> Any:
    """A row's setting, of the type that the field has."""
    if name in ("stop", "stop_tokens"):
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(s, str) for s in value):
            raise ValueError(f"{name}: {value!r} is not a list of texts")
        return tuple(value)
    kind = type(getattr(sampling, name))
    good = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not good:
        raise ValueError(
            f"{name}: {value!r} is not a {'whole number' if kind is int else 'number'}"
        )
    return kind(value)
