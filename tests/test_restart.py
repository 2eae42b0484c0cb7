"""A run that dies at any moment goes on by itself and ends where it would have ended, to the bit.

Moments are chosen by event (tests/die.py), and each test proves from what the dead run left behind that
its moment was hit.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.layers import LayerReader
from training.steps import committed_steps, read_meta

pytestmark = pytest.mark.slow

STEPS = 12
RECIPE = {
    "model": {
        "preset": "tiny",
        "num_layers": 2,
        "embed_dim": 64,
        "mlp_dim": 96,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
    },
    "train": {
        "num_steps": STEPS,
        "seq_len": 128,
        "global_batch_rows": 4,
        "compute_dtype": "float32",
    },
    "optimizer": {"peak_lr": 1e-3, "warmup_steps": 2},
    "checkpoint": {"every_steps": 4, "keep": 2},
    "eval": {"every_steps": 6, "max_rows": 8},
    "tracking": {"every_steps": 1, "tensorboard": False},
}


@pytest.fixture(scope="module")
def recipe(sample_streams, tmp_path_factory):
    """A short training recipe on the sample corpora."""
    folder = tmp_path_factory.mktemp("restart")
    streams = {
        name: {"path": str(sample_streams / name)} for name in ("biomedicine", "instructions")
    }
    path = folder / "recipe.yaml"
    tokenizer = str(sample_streams / "tokenizer")
    whole = RECIPE | {"run_dir": str(folder / "x"), "tokenizer": tokenizer, "streams": streams}
    path.write_text(json.dumps(whole))  # JSON is YAML
    return path


def start(recipe, run_dir, when="never", *overrides):
    """Runs to death or to the end; the return code, and what was printed."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        # The second start of a test compiles nothing anew, as on a machine in use.
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(recipe.parent / "xla"),
    }
    done = subprocess.run(
        [sys.executable, "tests/die.py", when, str(recipe), f"run_dir={run_dir}", *overrides],
        cwd=Path(__file__).resolve().parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def log(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def events(run_dir):
    """All but the closing account of wall time."""
    lines = [line for line in log(run_dir) if line.get("event", "wall") != "wall"]
    return [(line["event"], line.get("step")) for line in lines]


def final_arrays(run_dir):
    reader = LayerReader(str(run_dir), STEPS)
    arrays = {key: np.asarray(reader.read(key)) for key in reader.keys()}  # noqa: SIM118
    reader.verify()
    return arrays


@pytest.fixture(scope="module")
def undisturbed(recipe):
    run_dir = recipe.parent / "undisturbed"
    code, output = start(recipe, run_dir)
    assert code == 0, output
    return run_dir


def assert_same_end(run_dir, undisturbed):
    ours, theirs = final_arrays(run_dir), final_arrays(undisturbed)
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key].tobytes() == theirs[key].tobytes(), f"{key} differs"
    # The optimizer's moments and everything else in the commit, by digest.
    assert (
        read_meta(str(run_dir), STEPS)["digests"] == read_meta(str(undisturbed), STEPS)["digests"]
    )
    losses = [
        {line["step"]: line["loss"] for line in log(run) if "loss" in line}
        for run in (run_dir, undisturbed)
    ]
    assert losses[0] == losses[1], "every step was logged once, with the same loss"


def tmp_steps(run_dir):
    return list(run_dir.glob("checkpoints/*orbax-checkpoint-tmp*"))


# name: (when to die, proof from what is left that the moment was hit)
MOMENTS = {
    "compiling": (
        "SIGKILL:event:compile:0",
        lambda run: events(run)[-1] == ("compile", 0) and not committed_steps(str(run)),
    ),
    "first evaluation": (
        "SIGKILL:event:eval:0",
        lambda run: events(run)[-1] == ("eval", 0),
    ),
    "some step": (
        "SIGKILL:loss:7",
        lambda run: log(run)[-1]["step"] == 7 and "loss" in log(run)[-1],
    ),
    "while a checkpoint is half written": (
        "SIGKILL:path:checkpoints/4.orbax-checkpoint-tmp*",
        lambda run: tmp_steps(run) and 4 not in committed_steps(str(run)),
    ),
    "while the second checkpoint is half written": (
        "SIGKILL:path:checkpoints/8.orbax-checkpoint-tmp*",
        lambda run: tmp_steps(run) and committed_steps(str(run)) == [4],
    ),
    "right after a commit": (
        "SIGKILL:path:checkpoints/8/_CHECKPOINT_METADATA",
        lambda run: 8 in committed_steps(str(run)) and STEPS not in committed_steps(str(run)),
    ),
    "inside an evaluation": (
        "SIGKILL:event:eval:6",
        lambda run: events(run)[-1] == ("eval", 6),
    ),
    "inside the last save": (
        f"SIGKILL:path:checkpoints/{STEPS}.orbax-checkpoint-tmp*",
        lambda run: (
            tmp_steps(run)
            and events(run)[-1] == ("saving", STEPS)
            and STEPS not in committed_steps(str(run))
        ),
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed(moment, recipe, undisturbed, tmp_path):
    when, proof = MOMENTS[moment]
    code, output = start(recipe, tmp_path / "run", when)
    assert code == -9, output
    assert proof(tmp_path / "run"), events(tmp_path / "run")
    code, output = start(recipe, tmp_path / "run")
    assert code == 0, output
    assert_same_end(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(
    ("when", "saved"), [("SIGTERM:event:compile:0", 1), ("SIGTERM:event:eval:6", 7)]
)
def test_told_to_go(when, saved, recipe, undisturbed, tmp_path):
    """SIGTERM: the step in hand is finished and saved, exit code 75, and nothing is lost."""
    run_dir = tmp_path / "run"
    code, output = start(recipe, run_dir, when)
    assert code == 75, output
    assert events(run_dir)[-1] == ("preempted", saved)
    assert committed_steps(str(run_dir))[-1] == saved
    code, output = start(recipe, run_dir)
    assert code == 0, output
    assert ("resume", saved) in events(run_dir)
    assert_same_end(run_dir, undisturbed)


def test_killed_again_and_again(recipe, undisturbed, tmp_path):
    """Three deaths in one run, the second and third after resumes."""
    run_dir = tmp_path / "run"
    for when in ("SIGKILL:loss:5", "SIGKILL:event:eval:6", "SIGKILL:loss:10"):
        code, output = start(recipe, run_dir, when)
        assert code == -9, output
    code, output = start(recipe, run_dir)
    assert code == 0, output
    assert_same_end(run_dir, undisturbed)


def data_files(run_dir, step):
    """The files that hold live array data, largest first."""
    files = [p for p in (run_dir / "checkpoints" / str(step)).rglob("*") if p.is_file()]
    return sorted((p for p in files if "/d/" in str(p)), key=lambda p: -p.stat().st_size)


def flip(run_dir):
    """One bit in the middle of the largest data file of the parameters."""
    victim = next(p for p in data_files(run_dir, STEPS) if "params" in str(p))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0x10
    victim.write_bytes(content)


def truncate(run_dir):
    victim = next(p for p in data_files(run_dir, STEPS) if "params" in str(p))
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])


def delete(run_dir):
    next(p for p in data_files(run_dir, STEPS) if "params" in str(p)).unlink()


@pytest.mark.parametrize("damage", [flip, truncate, delete])
def test_a_damaged_newest_step_is_named_and_the_one_before_used(
    damage, recipe, undisturbed, tmp_path
):
    """By train.py, evaluation.run and model.export alike, each finding it for itself."""
    import shutil

    root = Path(__file__).resolve().parent.parent
    for command in ("train", "evaluate", "export"):
        run_dir = tmp_path / command
        shutil.copytree(undisturbed, run_dir)
        damage(run_dir)
        if command == "train":
            code, output = start(recipe, run_dir)
        else:
            module = {
                "evaluate": ["evaluation.run", str(run_dir)],
                "export": ["model.export", str(run_dir), str(tmp_path / f"{command}-out")],
            }[command]
            done = subprocess.run(
                [sys.executable, "-m", *module],
                cwd=root,
                env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
                capture_output=True,
                text=True,
                check=False,
            )
            code, output = done.returncode, done.stdout + done.stderr
        assert code == 0, output
        assert f"step {STEPS}" in output, output
        if damage is flip:
            assert "digest" in output, output
        assert "params/" in output or "params" in output, output
        if command == "train":
            assert ("bad_checkpoint", STEPS) in events(run_dir)
            assert ("resume", 8) in events(run_dir)
            assert_same_end(run_dir, undisturbed)


def test_a_changed_recipe_stops_with_the_difference(recipe, undisturbed, tmp_path):
    import shutil

    shutil.copytree(undisturbed, tmp_path / "run")
    changes = ("optimizer.peak_lr=2e-3", "streams.instructions.weight=3.0", "checkpoint.keep=9")
    code, output = start(recipe, tmp_path / "run", "never", *changes)
    assert code == 1
    assert "optimizer.peak_lr: 0.001 -> 0.002" in output
    assert "streams.instructions.weight: 1.0 -> 3.0" in output
    assert "checkpoint.keep" not in output
    changes += ("train.num_steps=16", "resume.accept_changes=true")
    code, output = start(recipe, tmp_path / "run", "never", *changes)
    assert code == 0, output
    meta = read_meta(str(tmp_path / "run"), 16)
    assert any("peak_lr" in line for line in meta["accepted_changes"])
    assert meta["deal"]["start_row"] == STEPS * 4
    before = read_meta(str(undisturbed), STEPS)["counts"]
    assert meta["deal"]["start_counts"] == before, "quotas go on from the counts reached"
