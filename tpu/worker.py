"""A command on one worker that outlives the connection it was started through; needs only Python.

    python -m tpu.worker start --id ID [--env NAME=VALUE ...] [--env-file FILE] -- COMMAND ...
    python -m tpu.worker follow --id ID [--from BYTES]     its output from there on, then how it ended
    python -m tpu.worker stop [--grace SECONDS]            SIGTERM, and SIGKILL when that does not help
    python -m tpu.worker status                            JSON: id, running, code
    python -m tpu.worker newest RUN_DIR                    the newest finished checkpoint's step, -1: none

`start` makes a process of its own session that executes the command (no shell in between, so a SIGTERM
from whoever reaches Python itself), writes its output to a file, waits for it and records how it ended.
A lost ssh connection therefore costs nothing: `follow` goes on where it stopped. All of it lies in
`.run/` below the working directory, where one command runs at a time.

gcloud connects again by itself when a connection breaks, and gives the same command a second time. So `start`
of what was started already does nothing, and `follow` says of every line where it ends: `BYTES TEXT`, and last
of all `end CODE`. Its own exit code says nothing about the command's.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(".run")
VANISHED = 250  # the process is gone and nobody saw it end: the machine went down
UNKNOWN = 249  # another command, or none, is what was started here
END = "end"  # begins the line that says how the command ended
_PAUSE = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line and does the one thing it asks for."""
    parser = argparse.ArgumentParser(prog="tpu.worker", description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    start_ = verbs.add_parser("start")
    start_.add_argument("--id", required=True)
    start_.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    start_.add_argument("--env-file", type=Path, help="more NAME=VALUE, one a line")
    start_.add_argument("command", nargs="+")
    follow_ = verbs.add_parser("follow")
    follow_.add_argument("--id", required=True)
    follow_.add_argument("--from", dest="begin", type=int, default=0)
    verbs.add_parser("stop").add_argument("--grace", type=float, default=60.0)
    verbs.add_parser("status")
    verbs.add_parser("newest").add_argument("run_dir")
    given = parser.parse_args(argv)
    if given.verb == "start":
        more = given.env_file.read_text().splitlines() if given.env_file else []
        env = dict(item.split("=", 1) for item in [*given.env, *more])
        return start(given.id, given.command, env)
    if given.verb == "follow":
        return follow(given.id, given.begin)
    if given.verb == "stop":
        return stop(given.grace)
    if given.verb == "newest":
        from training.steps import committed_steps

        print(max(committed_steps(given.run_dir), default=-1))
        return 0
    print(json.dumps(status()))
    return 0


def start(run_id: str, command: Sequence[str], env: dict[str, str]) -> int:
    """Starts the command and returns when it runs; 1 when another one runs here already."""
    now = status()
    if now["id"] == run_id:
        return 0
    if now["running"]:
        print(
            f"error: {now['id']} runs here as process {now['pid']}; stop it first", file=sys.stderr
        )
        return 1
    FOLDER.mkdir(exist_ok=True)
    for old in ("started", "ended"):
        (FOLDER / old).unlink(missing_ok=True)
    if os.fork() == 0:
        _keep(run_id, command, os.environ | env)
    for _ in _waiting(30.0):
        if (FOLDER / "started").exists():
            return 0
        if (FOLDER / "ended").exists():  # it could not be executed
            print((FOLDER / "log").read_text(), file=sys.stderr)
            return 1
    print("error: not started after 30 s", file=sys.stderr)
    return 1


def follow(run_id: str, begin: int = 0) -> int:
    """Prints the output after so many bytes line by line as it comes, each behind the bytes up to its end.

    The last line is `end CODE`, with 128 + number for a signal.
    """
    if status()["id"] != run_id:
        print(f"{END} {UNKNOWN}", flush=True)
        return 0
    out, position, part = sys.stdout.buffer, begin, b""
    with (FOLDER / "log").open("rb") as log:
        log.seek(begin)
        while True:
            # The state first, then what is left to read: nothing written before the end is lost.
            now = status()
            text = log.read()
            *lines, part = (part + text).split(b"\n")
            if part and not now["running"]:  # the last line may have no end of its own
                lines, part = [*lines, part], b""
            for line in lines:
                position += len(line) + 1
                out.write(b"%d %s\n" % (position, line))
            if not now["running"]:
                out.write(b"%s %d\n" % (END.encode(), now["code"]))
            out.flush()
            if not now["running"]:
                return 0
            if not text:
                time.sleep(_PAUSE)


def stop(grace: float) -> int:
    """Tells the command to go; kills it when it has not gone in time."""
    now = status()
    if not now["running"]:
        return 0
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 30.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(now["pid"], number)
        for _ in _waiting(patience):
            if not status()["running"]:
                return 0
    print(f"error: process {now['pid']} does not end", file=sys.stderr)
    return 1


def status() -> dict[str, Any]:
    """Which command was started last (id, pid), whether it runs, and its exit code when it does not."""
    begun = _read("started")
    if begun is None:
        return {"id": None, "pid": None, "running": False, "code": None}
    ended = _read("ended")
    found = {"id": begun["id"], "pid": begun["pid"]}
    if ended is None and _born(begun["pid"]) == begun["born"]:
        return found | {"running": True, "code": None}
    if ended is None:  # a moment may pass between the end and its record
        for _ in _waiting(3.0):
            if ended := _read("ended"):
                break
    return found | {"running": False, "code": ended["code"] if ended else VANISHED}


def _keep(run_id: str, command: Sequence[str], env: dict[str, str]) -> None:
    """The keeper's whole life, in a process of its own; never returns."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with (FOLDER / "log").open("wb") as log:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        try:
            process = subprocess.Popen(
                list(command),
                env=env | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # What is ignored here would be ignored there, and SIGTERM must arrive.
                preexec_fn=_hear,
            )
        except OSError as error:
            log.write(f"error: {error}\n".encode())
            log.flush()
            _write("ended", {"id": run_id, "code": 127, "at": time.time()})
            os._exit(1)
    _write("started", {"id": run_id, "pid": process.pid, "born": _born(process.pid)})
    code = process.wait()
    _write("ended", {"id": run_id, "code": 128 - code if code < 0 else code, "at": time.time()})
    os._exit(0)


def _hear() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _born(pid: int) -> str | None:
    """When a process began, in ticks since boot: with its number, who it is. None: it is not there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _read(name: str) -> dict[str, Any] | None:
    try:
        return json.loads((FOLDER / name).read_text())
    except FileNotFoundError:
        return None


def _write(name: str, value: dict[str, Any]) -> None:
    part = FOLDER / f"{name}.part"
    part.write_text(json.dumps(value))
    part.replace(FOLDER / name)


def _waiting(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(_PAUSE)


if __name__ == "__main__":
    sys.exit(main())
