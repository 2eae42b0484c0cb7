"""One preparation: its folders, and the settings under which what lies in them is valid.

A stream is prepared again when anything that its bytes depend on has changed; what was made under
other settings is taken away first. Finished parts that were made under the same settings are kept.
"""

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path as LocalPath
from typing import Any

from etils import epath

from data import benchmarks, sources
from data import rows as rows_lib
from data.config import CorpusConfig, PrepareConfig
from data.executor import Executor, LocalExecutor
from data.tokenizer import Tokenizer, load_tokenizer, train_sentencepiece

# Bytes may change with this number: what was prepared under another one is prepared again.
VERSION = 2


class Job:
    """The folders of one preparation, and the settings under which their contents are valid."""

    def __init__(self, config: PrepareConfig, executor: Executor | None = None):
        self.config = config
        self.out = epath.Path(config.out_dir)
        self.work = self.out / ".work"
        self.started = time.time()
        self.seconds: dict[str, float] = {}
        self.executor = executor or LocalExecutor(config.workers or _num_cores())
        self.inputs = {name: _list_inputs(name, corpus) for name, corpus in config.corpora.items()}
        self.tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
        groupless = any(c.fields.group is None for c in config.corpora.values())
        clean = config.clean
        # Whether documents are compared with those of every corpus before any is converted.
        self.compares = bool(
            (groupless and config.heldout.fraction > 0)
            or (clean and (clean.dedup.enabled or clean.decontaminate))
        )
        self.needs_all = self.compares or self.tokenizer is None
        # Copies are kept in the order of the corpora, and test items may change in their files.
        tests = clean.decontaminate if clean else ()
        tests = [benchmarks.identity(t.task, path=t.path, source=t.source) for t in tests]
        self._compared = [clean, list(config.corpora), tests]
        self._settings = {name: self._settings_of(name) for name in config.corpora}
        if rows_lib.is_remote(self.out) and not self.executor.shared:
            key = sha256(str(self.out).encode()).hexdigest()[:12]
            self.spool = epath.Path(tempfile.gettempdir()) / f"lectern-prepare-{key}"
        else:
            self.spool = self.work / "spool"

    def digest(self, name: str) -> str:
        """Stands for all that the bytes of a stream depend on."""
        return _digest(self._settings[name])

    def source_digest(self, name: str) -> str:
        """What the dealt documents of a corpus depend on."""
        return _digest(self._source_of(name))

    def clean_digest(self, name: str) -> str:
        """What the cleaned documents of a corpus, and what is noted of them, depend on."""
        config = self.config
        rest = [config.clean_of(name), config.clean, config.heldout.fraction, config.partitions]
        rest.append(_tuned("clean"))
        return _digest(_plain([VERSION, self._source_of(name), rest, self._compared]))

    def decision_digest(self) -> str:
        """What is decided over all documents depends on."""
        return _digest([self.clean_digest(name) for name in self.config.corpora])

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Counts the seconds of a pass, by the clock."""
        began = time.monotonic()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.monotonic() - began

    def is_finished(self, name: str) -> bool:
        """Whether the stream is there, whole, and made under these settings."""
        stream = rows_lib.read_stream(self.out / name)
        run = self.out / name / "run.json"
        if stream is None or not run.exists():
            return False
        if json.loads(run.read_text())["digest"] != self.digest(name):
            return False
        for shard in stream["shards"]:
            path = self.out / name / shard["file"]
            if not path.exists() or path.stat().length != shard["bytes"]:
                return False
        return (self.out / "tokenizer").exists()

    def begin(self, name: str, *, alone: bool = True) -> None:
        """Makes the folder ready: takes away what was made under other settings, and says so."""
        stream, work = self.out / name, self.work / name
        mark = work / "settings.json"
        try:
            work.mkdir(parents=True, exist_ok=True)
            for folder in (
                stream,
                stream / "documents",
                stream / "heldout",
                stream / "heldout_converted",
                work,
                self.work,
            ):
                if alone:  # else they may be another host's, being written
                    rows_lib.remove_partials(folder)
            # Object storage makes no folders; what is wrong with a bucket shows when it is listed.
            there = _products(stream) + list(work.glob("*"))
        except OSError as error:
            raise ValueError(f"out_dir: {self.out} cannot be written: {error}") from error
        before = [p for p in (mark, stream / "run.json") if p.exists()]
        if before:
            settings = json.loads(before[0].read_text())["settings"]
            if _digest(settings) == self.digest(name):
                return
            changed = [
                k for k in self._settings[name] if settings.get(k) != self._settings[name][k]
            ]
            print(
                f"{name}: {', '.join(changed)} changed since it was prepared; preparing it again."
            )
        for path in there:
            path.unlink()
        rows_lib.write_json(mark, {"settings": self._settings[name]})

    def save_tokenizer(self, texts: Callable[[], Iterable[str]]) -> Tokenizer:
        """Puts the tokenizer beside the streams; trains it first where the recipe says so."""
        folder = self.out / "tokenizer"
        if self.tokenizer is None:
            assert self.config.train_tokenizer is not None
            mark = self.work / "tokenizer.json"
            digest = _digest(self._settings)
            if not mark.exists() or json.loads(mark.read_text())["digest"] != digest:
                with tempfile.TemporaryDirectory() as local:
                    train_sentencepiece(texts(), local, self.config.train_tokenizer).save(folder)
                rows_lib.write_json(mark, {"digest": digest})
            self.tokenizer = load_tokenizer(str(folder))
        else:
            self.tokenizer.save(folder)
        # Machines elsewhere find it beside the streams only.
        return load_tokenizer(str(folder)) if self.executor.shared else self.tokenizer

    def add_bos(self, tokenizer: Tokenizer) -> bool:
        """The recipe's `add_bos`, `auto` resolved."""
        return tokenizer.add_bos if self.config.add_bos == "auto" else self.config.add_bos

    def run_facts(self, name: str, num_bytes: int) -> dict[str, Any]:
        """`run.json`: the settings, and what differs from run to run."""
        seconds = time.time() - self.started
        return {
            "digest": self.digest(name),
            "settings": self._settings[name],
            "host": socket.gethostname(),
            "executor": str(self.executor),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(seconds, 3),
            "seconds_by_pass": {k: round(v, 3) for k, v in self.seconds.items()},
            "megabytes": round(num_bytes / 1e6, 3),
        }

    def clean_up(self) -> None:
        """Takes away all that only a run under way needs."""
        if self.spool.exists():
            self.spool.rmtree()
        if self.work.exists():
            self.work.rmtree()

    def _source_of(self, name: str) -> dict[str, Any]:
        converts = {"convert", "chat", "comprehension", "synthesis", "clean", "licence"}
        corpus = self.config.corpora[name].model_dump(exclude=converts)
        return {"source": corpus, "inputs": [identity(item) for item in self.inputs[name]]}

    def _settings_of(self, name: str) -> dict[str, Any]:
        config, corpus = self.config, self.config.corpora[name]
        tokenizer = self.tokenizer.fingerprint if self.tokenizer else config.train_tokenizer
        settings = {
            "version": VERSION,
            **self._source_of(name),
            "licence": corpus.licence,
            "clean": [config.clean_of(name), _tuned("clean")],
            "convert": corpus.convert,
            "chat": corpus.chat,
            "seq_len": config.seq_len,
            "tokenizer": tokenizer,
            "add_bos": config.add_bos,
            "add_eos": config.add_eos,
            "partitions": config.partitions,
            "heldout": config.heldout,
        }
        if corpus.convert == "comprehension":
            settings["comprehension"] = [corpus.comprehension, _tuned("comprehension")]
        if corpus.convert == "synthesis":
            settings["synthesis"] = [corpus.synthesis.identity(), _tuned("synthesis")]
            assert config.generator is not None
            settings["generator"] = config.generator.identity()
        if self.compares:
            settings["compared"] = self._compared
        if self.needs_all:
            settings["corpora"] = {n: self._source_of(n) for n in sorted(config.corpora)}
        return _plain(settings)


def identity(item: str) -> dict[str, Any]:
    """What tells that an input is still the one that was read."""
    path = epath.Path(item)
    if not path.exists():
        return {"name": item}
    stat = path.stat()
    return {"name": item, "bytes": stat.length, "changed": stat.mtime}


def _list_inputs(name: str, corpus: CorpusConfig) -> list[str]:
    try:
        return sources.list_inputs(corpus)
    except ValueError as error:
        raise ValueError(f"corpora.{name}.{error}") from error


def _tuned(room: str) -> str:
    """Stands for the texts and word lists of a room, which people change."""
    files = sorted(LocalPath(__file__).with_name(room).rglob("*.yaml"))
    return _digest([[file.name, file.read_text(encoding="utf-8")] for file in files])


def _plain(value: Any) -> Any:
    """The value as JSON reads it back."""
    return json.loads(json.dumps(value, default=lambda item: item.model_dump()))


def _digest(value: Any) -> str:
    return sha256(rows_lib.to_json(value).encode()).hexdigest()


def _products(folder: epath.Path) -> list[epath.Path]:
    """The files of a stream's folder; the ones that say it is finished come first."""
    patterns = ["stream.json", "heldout*/stream.json", "*.json", "heldout/*.json"]
    patterns += [
        "card.html",
        "set_aside.jsonl.zst",
        "documents/part-*.jsonl.zst",
        "heldout/documents.jsonl.zst",
    ]
    patterns += ["vocabulary/*.model", "heldout_converted/*.json*"]
    patterns += ["rows-train.array_record-*", "heldout*/rows-train.array_record-*"]
    return list(dict.fromkeys(path for pattern in patterns for path in folder.glob(pattern)))


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
