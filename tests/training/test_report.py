import base64
import re
from pathlib import Path

import jax.numpy as jnp
import pytest

from training.checkpoint import Checkpointer
from training.clock import Clock
from training.config import CheckpointConfig, TrackingConfig
from training.report import _smooth, heldout_table, series, wall_seconds, write_report
from training.tracking import Tracker

FACTS = {
    "rows": 64,
    "model": {"num_layers": 2, "vocab_size": 32000},
    "recipe": {"train": {"global_batch_rows": 8, "seq_len": 512}, "optimizer": {"peak_lr": 1e-3}},
}


def make_run(run: Path) -> None:
    """Two processes: one that goes to step 6, and one that goes on from 4 to 8."""
    time = iter(range(1000))
    for start, stop in ((0, 6), (4, 8)):
        clock = Clock(now=lambda: float(next(time)))
        config = TrackingConfig(tensorboard=False)
        with Tracker(str(run), config, num_steps=8, start_step=start, clock=clock) as tracker:
            tracker.event("resume" if start else "start", step=start)
            for step in range(start, stop + 1):
                if step % 4 == 0 and (step > start or not start):
                    bits = 1.0 - step / 16
                    tracker.log(step, {"eval/a<b/loss": 2 * bits, "eval/a<b/bits_per_byte": bits})
                if step > start:
                    tracker.log(step, {"loss": 3.0, "loss/a<b": 3.0, "lr": 1e-4, "mfu": 0.25})
            tracker.event("done" if stop == 8 else "preempted", step=stop)
    with Checkpointer(str(run), CheckpointConfig()) as checkpointer:
        checkpointer.save(8, {"w": jnp.ones((30, 50))}, None, FACTS)


def test_report_of_a_run(tmp_path: Path) -> None:
    make_run(tmp_path)
    page = Path(write_report(str(tmp_path)))
    assert page == tmp_path / "report.html"
    text = page.read_text()
    # One file: the picture inside is the one beside it, and nothing is fetched from anywhere.
    (image,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(image) == (tmp_path / "report.png").read_bytes()
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "http" not in text
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    cells = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in rows]
    assert ["a&lt;b", "2.0000", "1.0000", "1.0000", "0.5000", "-50.0 %"] in cells
    assert ["parameters", "1,500"] in cells
    assert ["batch", "8 rows of 512 tokens"] in cells
    assert ["restarts", "1"] in cells
    assert ["MFU, median", "25.0 %"] in cells
    assert "step 8, done" in text
    assert "a<b" not in text


def test_a_run_that_has_logged_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no numbers in metrics.jsonl yet"):
        write_report(str(tmp_path))


def test_a_report_of_a_single_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 1.0, "loss": null, "lr": 1e-4}\n')
    assert "not finished" in Path(write_report(str(tmp_path))).read_text()


def test_series_skip_events_and_take_the_last_of_a_step() -> None:
    lines = [
        {"event": "start", "step": 0, "time": 0.0},
        {"step": 2, "time": 1.0, "loss": 5.0, "wall/step": 1.0},
        {"step": 1, "time": 2.0, "loss": 6.0},
        {"step": 2, "time": 3.0, "loss": 4.0, "lr": None},
    ]
    assert series(lines) == {"loss": [(1, 6.0), (2, 4.0)]}


def test_heldout_table_without_bytes() -> None:
    (row,) = heldout_table({"eval/x/loss": [(0, 3.0), (5, 2.0), (9, 1.0)]})
    assert row == {"stream": "x", "loss": (3.0, 1.0), "bits_per_byte": None, "steps": (0, 9)}


def test_wall_time_over_processes_closed_killed_and_running() -> None:
    lines = [
        {"step": 1, "time": 0, "wall/step": 5.0},
        {"step": 2, "time": 0, "wall/step": 9.0, "wall/data": 1.0},
        {"event": "wall", "seconds": {"step": 10.0, "data": 1.0}},
        {"event": "resume", "step": 2},
        {"step": 3, "time": 0, "wall/step": 2.0, "wall/eval": 4.0},
    ]
    assert wall_seconds(lines) == {"step": 12.0, "eval": 4.0, "data": 1.0}
    assert list(wall_seconds(lines)) == ["step", "eval", "data"]


def test_smoothing_keeps_constants_and_lags_neither_way() -> None:
    assert _smooth([2.0] * 50, 5) == pytest.approx([2.0] * 50)
    ramp = [float(i) for i in range(101)]
    assert _smooth(ramp, 5)[50] == pytest.approx(50)
