import contextlib
import json
import math
import os
import pty
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from training.clock import Clock, duration, shares
from training.config import TrackingConfig, WandbConfig
from training.metrics_log import read_lines
from training.tracking import Tracker, heldout_lines, training_line

PLAIN = TrackingConfig(tensorboard=False)


class Time:
    """A clock that goes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_clock_charges_every_second_once() -> None:
    time = Time()
    clock = Clock(now=time, started=95.0)
    with clock("data"):
        time.now += 2
        with clock("checkpoint"):
            time.now += 3
        time.now += 1
    with contextlib.suppress(KeyError), clock("step"):
        time.now += 10
        raise KeyError
    time.now += 4
    seconds = clock.seconds()
    assert {k: v for k, v in seconds.items() if v} == {
        "other": 9, "data": 3, "checkpoint": 3, "step": 10
    }  # fmt: skip
    assert sum(seconds.values()) == time.now - 95
    assert clock.line() == "wall 0:25: step 40.0 %, other 36.0 %, data 12.0 %, checkpoint 12.0 %"


def test_clock_nests_the_same_kind_and_reads_inside() -> None:
    time = Time()
    clock = Clock(now=time)
    with clock("step"):
        time.now += 1
        with clock("step"):
            time.now += 1
        assert clock.seconds()["step"] == 2
    clock.move(0.5, "step", "compile")
    assert (clock.seconds()["step"], clock.seconds()["compile"]) == (1.5, 0.5)
    with pytest.raises(ValueError, match="'lunch' is no kind of wall time; the kinds are step, "):
        clock("lunch").__enter__()


def test_durations_and_shares() -> None:
    assert [duration(s) for s in (0, 59.6, 61, 3723)] == ["0:00", "1:00", "1:01", "1:02:03"]
    assert shares({"step": 99.5, "data": 0.5}, least=0.01) == "1:40: step 99.5 %"
    assert shares({"step": 0.0}) == "0:00: "


def test_log_lines_and_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    time = Time()
    clock = Clock(now=time)
    with Tracker(str(tmp_path), PLAIN, num_steps=10, clock=clock) as tracker:
        tracker.event("start", step=0, hosts=np.int64(1))
        # An event is there for others before anything is closed.
        assert read_lines(str(tmp_path))[0]["event"] == "start"
        with clock("step"):
            time.now += 8
        time.now += 2
        tracker.log(
            5, {"loss": jnp.float32(2.5), "loss/qa": 2.0, "lr": 1e-5, "grad_norm": math.inf}
        )
        tracker.log(5, {"eval/qa/loss": 2.25, "eval/qa/bits_per_byte": 0.9})
    start, numbers, heldout, wall = read_lines(str(tmp_path))
    assert (start["event"], start["hosts"]) == ("start", 1)
    assert (numbers["step"], numbers["loss"], numbers["loss/qa"]) == (5, 2.5, 2.0)
    assert numbers["grad_norm"] is None  # JSON has no infinity
    assert (numbers["wall/step"], numbers["wall/other"]) == (8, 2)
    assert heldout["eval/qa/bits_per_byte"] == 0.9
    assert (wall["event"], wall["seconds"]["step"], wall["step"]) == ("wall", 8, 5)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("step 5/10  loss 2.5000 (qa 2.000)  grad inf  lr 1.00e-05  left 0:0")
    assert out[0].endswith("[step 80.0 %, other 20.0 %]")
    assert out[1] == "step 5  held-out qa  loss 2.2500  bits per byte 0.9000"
    assert out[2] == "wall 0:10: step 80.0 %, other 20.0 %"


def test_a_line_as_a_person_reads_it() -> None:
    values = {"loss": 2.0, "tokens_per_second": 12345.0, "mfu": 0.4567, "share/qa": 0.5}
    assert training_line(values) == "loss 2.0000  12.3k tokens/s  MFU 45.7 %"
    assert heldout_lines({"eval/a/loss": 1.0, "eval/long/loss": 2.0}) == [
        "held-out a     loss 1.0000",
        "held-out long  loss 2.0000",
    ]


def run_steps(run: Path, start: int, stop: int, **fields: float) -> None:
    with Tracker(str(run), PLAIN, num_steps=100, start_step=start) as tracker:
        tracker.event("resume" if start else "start", step=start)
        for step in range(start + 1, stop + 1):
            tracker.log(step, {"loss": float(step), **fields})


def test_a_resume_cuts_the_numbers_and_keeps_the_events(tmp_path: Path) -> None:
    run_steps(tmp_path, 0, 7, lr=1.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    run_steps(tmp_path, 4, 6, lr=2.0)
    lines = read_lines(str(tmp_path))
    numbers = [(line["step"], line["lr"]) for line in lines if "event" not in line]
    assert numbers == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 2.0), (6, 2.0)]
    assert [(line["event"], line["step"]) for line in lines if "event" in line] == [
        ("start", 0), ("resume", 4)
    ]  # fmt: skip


def test_a_killed_process_leaves_its_wall_time(tmp_path: Path) -> None:
    time = Time()
    tracker = Tracker(str(tmp_path), PLAIN, num_steps=9, clock=Clock(now=time))
    time.now += 5
    tracker.log(3, {"loss": 1.0})
    # Never closed. The next process goes on from before its last line.
    Tracker(str(tmp_path), PLAIN, num_steps=9, start_step=2).close()
    (line,) = read_lines(str(tmp_path))
    assert (line["event"], line["seconds"], line["killed"]) == ("wall", {"other": 5.0}, True)


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not a JSON object: 'nonsense'"):
        read_lines(str(tmp_path))


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with Tracker(str(tmp_path), TrackingConfig(), num_steps=9) as tracker:
        tracker.event("start")
        tracker.log(1, {"loss": 1.0})
        tracker.say("hello")
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    with Tracker(str(tmp_path), TrackingConfig(), num_steps=9) as tracker:
        tracker.log(1, {"loss": 1.5, "loss/qa": 2.5})
    (file,) = (tmp_path / "tensorboard").iterdir()
    data = file.read_bytes()
    assert b"loss/qa" in data
    assert np.float32(2.5).tobytes() in data


def test_wandb_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrackingConfig(wandb=WandbConfig(project="p"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"tracking\.wandb: the package is not installed; install"):
        Tracker(str(tmp_path), config, num_steps=9)
    monkeypatch.setitem(sys.modules, "wandb", object())
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(ValueError, match=r"tracking\.wandb: set WANDB_API_KEY"):
        Tracker(str(tmp_path), config, num_steps=9)


TERMINAL = """
import sys
from training.config import TrackingConfig
from training.tracking import Tracker
with Tracker(sys.argv[1], TrackingConfig(tensorboard=False), num_steps=4) as tracker:
    for step in (1, 2, 3, 4):
        tracker.log(step, {"loss": 4.0 / step, "tokens_per_second": 1000.0})
    tracker.log(4, {"eval/qa/loss": 2.0})
    tracker.say("saved [bold]")
"""


def test_on_a_terminal_progress_is_in_place(tmp_path: Path, root: Path) -> None:
    reader, writer = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", TERMINAL, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=writer, stderr=subprocess.PIPE, env=env, cwd=root
    ) as child:
        os.close(writer)
        shown = b""
        while True:
            try:
                part = os.read(reader, 4096)
            except OSError:  # the terminal is gone with the child
                break
            if not part:
                break
            shown += part
    os.close(reader)
    assert child.returncode == 0
    text = shown.decode()
    assert "4/4" in text
    assert "loss 1.0000" in text
    assert "\x1b[2K" in text  # the line was erased and drawn again
    assert "step 4  held-out qa  loss 2.0000" in text
    assert "saved [bold]" in text


class Bucket:
    """A run directory on object storage, as far as the log sees it: whole objects, counted."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __truediv__(self, name: str) -> "Bucket":
        return self

    def exists(self) -> bool:
        return bool(self.texts)

    def read_text(self) -> str:
        return self.texts[-1]

    def write_text(self, text: str) -> None:
        self.texts.append(text)


def test_object_storage_gets_the_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket()
    monkeypatch.setattr("training.metrics_log.epath.Path", lambda _: bucket)
    for start in (0, 3):
        with Tracker("gs://bucket/run", PLAIN, num_steps=9, start_step=start) as tracker:
            tracker.event("start", step=start)
            assert json.loads(bucket.texts[-1].splitlines()[-1])["step"] == start
            for step in range(start + 1, start + 6):
                tracker.log(step, {"loss": 1.0})
    lines = [json.loads(text) for text in bucket.texts[-1].splitlines()]
    assert [line["step"] for line in lines if "event" not in line] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(bucket.texts) < 10  # not one upload a line
