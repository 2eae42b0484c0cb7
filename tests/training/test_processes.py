"""Two real processes, joined by jax.distributed: the same numbers as one device, and the same goodbye."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.training.layouts import CONFIG, check_same, one_device, run
from training.layers import LayerReader
from training.steps import committed_steps, read_meta

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def start_processes(count, devices, *command):
    """`count` processes of `devices` CPU devices each, knowing of one another.

    A word that is a list has one value for each process.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    started = []
    for index in range(count):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
        words = [str(word[index] if isinstance(word, list) else word) for word in command]
        started.append(
            subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def finish(processes):
    outputs = [p.communicate(timeout=600)[0] for p in processes]
    return [p.returncode for p in processes], "\n".join(outputs)


@pytest.mark.parametrize(("accumulate", "fsdp", "tensor"), [(1, 8, 1), (4, 4, 2)])
def test_two_processes_match_one_device(accumulate, fsdp, tensor, tmp_path):
    """fsdp over both processes; and with split heads inside each."""
    out = tmp_path / "run.npz"
    codes, output = finish(
        start_processes(2, 4, "tests/training/one_process.py", out, accumulate, fsdp, tensor)
    )
    assert codes == [0, 0], output
    found = np.load(out)
    expected = run(CONFIG, one_device())
    count = len(jax.tree.leaves(expected[0]))
    grads = jax.tree.unflatten(
        jax.tree.structure(expected[0]), [found[f"grad{i}"] for i in range(count)]
    )
    metrics = {name: found[f"metric {name}"] for name in expected[2]}
    check_same((grads, found["curve"], metrics), expected)


@pytest.fixture(scope="module")
def recipe(sample_streams, tmp_path_factory):
    streams = {n: {"path": str(sample_streams / n)} for n in ("biomedicine", "instructions")}
    shape = {"num_layers": 2, "embed_dim": 64, "mlp_dim": 96, "num_heads": 4, "num_kv_heads": 2}
    path = tmp_path_factory.mktemp("processes") / "recipe.yaml"
    whole = {
        "run_dir": "set by each test",
        "tokenizer": str(sample_streams / "tokenizer"),
        "model": {"preset": "tiny", "head_dim": 16, **shape},
        "streams": streams,
        "train": {
            "num_steps": 12,
            "seq_len": 128,
            "global_batch_rows": 8,
            "compute_dtype": "float32",
        },
        "optimizer": {"peak_lr": 1e-3, "warmup_steps": 2},
        "checkpoint": {"every_steps": 50},
        "eval": {"every_steps": 50, "max_rows": 8},
        "tracking": {"every_steps": 1, "tensorboard": False},
    }
    path.write_text(json.dumps(whole))
    return path


def losses(run_dir):
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def final_array(run_dir, key):
    return LayerReader(str(run_dir), 12).read(key)


@pytest.fixture(scope="module")
def alone(recipe):
    """The run that one process with one device makes."""
    run_dir = recipe.parent / "alone"
    codes, output = finish(start_processes(1, 1, "train.py", recipe, f"run_dir={run_dir}"))
    assert codes == [0], output
    return run_dir


@pytest.mark.parametrize("tensor", [1, 2])
def test_sigterm_to_one_of_two_and_on_with_another_number_of_hosts(tensor, recipe, alone, tmp_path):
    """Both save the same step and leave with 75; one process with one device carries the run on."""
    run_dir = tmp_path / "pair"
    mesh = f"mesh.tensor={tensor}"
    pair = start_processes(2, 2, "train.py", recipe, f"run_dir={run_dir}", mesh)
    log = run_dir / "metrics.jsonl"
    # Told while both compile: the twelve steps may take less than the second in which JAX looks for notices.
    while '"compile"' not in (log.read_text() if log.exists() else ""):
        assert all(p.poll() is None for p in pair), finish(pair)
        time.sleep(0.01)
    pair[1].send_signal(signal.SIGTERM)
    codes, output = finish(pair)
    assert codes == [75, 75], output
    (saved,) = committed_steps(str(run_dir))
    assert 1 <= saved < 12

    codes, output = finish(start_processes(1, 1, "train.py", recipe, f"run_dir={run_dir}"))
    assert codes == [0], output
    ours, theirs = losses(run_dir), losses(alone)
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)
    metas = [read_meta(str(d), 12) for d in (run_dir, alone)]
    assert metas[0]["counts"] == metas[1]["counts"]
    for key in ("embed/table", "blocks/mlp/down"):
        a, b = (final_array(d, key) for d in (run_dir, alone))
        # AdamW turns the last bits of a tiny gradient into a whole step, so single entries may part.
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)
