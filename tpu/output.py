"""What a launch says: its own lines and those of its workers, on the screen and in a file each."""

import queue
import re
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tpu.worker import END

_LINE = re.compile(rb"(\d+) (.*)\n", re.DOTALL)  # as `tpu.worker follow` writes them
_END = re.compile(rf"{END} (\d+)\n".encode())
_SHOWN = 5  # lines of gcloud's own that are shown when a connection failed


@dataclass
class Log:
    """Lines with who says them; from several threads.

    Attributes:
        folder: where each speaker's lines are kept, in a file of its name.
    """

    folder: Path
    _print: threading.Lock = field(default_factory=threading.Lock)
    _said: str = ""

    def say(self, text: str, who: str = "launch") -> None:
        """A line on the screen and in the file."""
        with self._print:
            print(f"[{who}] {text}", flush=True)
            with (self.folder / f"{who.replace(' ', '-')}.log").open("a") as log:
                log.write(text + "\n")

    def once(self, text: str) -> None:
        """A line of the launcher's, unless it has just said so."""
        if text != self._said:
            self._said = text
            self.say(text)


@dataclass
class Stream:
    """One worker's output, through one connection after another, read by a thread of its own.

    Attributes:
        name: the worker's.
        log: where the output goes.
        ended: gets this stream whenever its connection has ended; `code` tells why.
        begin: bytes of the output that have come.
        failures: connections in a row that brought nothing.
        code: how the command ended; None: only the connection did.
    """

    name: str
    log: Log
    ended: "queue.Queue[Stream]"
    begin: int = 0
    failures: int = 0
    code: int | None = None
    _process: subprocess.Popen[bytes] | None = None

    def connect(self, command: Sequence[str]) -> None:
        """Reads on, by a command that gives the output from `begin` on."""
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        threading.Thread(target=self._pump, args=(self._process,), daemon=True).start()

    def close(self) -> None:
        """Ends the connection; the worker's command goes on."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _pump(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        aside: list[str] = []
        errors = process.stderr
        beside = threading.Thread(
            target=lambda: aside.extend(line.decode(errors="replace") for line in errors),
            daemon=True,
        )
        beside.start()
        for line in process.stdout:
            self._take(line)
        process.wait()
        beside.join(timeout=5)
        if self.code is None:
            for text in aside[-_SHOWN:]:
                self.log.say(text.rstrip(), f"{self.name} gcloud")
        self.ended.put(self)

    def _take(self, line: bytes) -> None:
        """A line of `tpu.worker follow`; one that breaks off will come again."""
        if end := _END.fullmatch(line):
            self.code = int(end[1])
        elif found := _LINE.fullmatch(line):
            self.failures = 0
            # What gcloud asked for a second time has come already.
            if int(found[1]) > self.begin:
                self.begin = int(found[1])
                self.log.say(found[2].decode(errors="replace"), self.name)
