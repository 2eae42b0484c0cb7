"""What hosts must agree on, with two real processes; the compilation cache; the first step's account."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from tests.training.test_processes import finish, start_processes
from tpu.mesh import AXES
from tpu.runtime import _forget_oldest
from tpu.startup import (
    CODE,
    Hosts,
    _versions,
    check_hosts,
    code_digests,
    first_step_line,
    together,
)

HOST = socket.gethostname()


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What both processes said of every case: they must say the same."""
    folder = tmp_path_factory.mktemp("agree")
    codes, output = finish(start_processes(2, 1, "tests/tpu/agree.py", folder))
    assert codes == [0, 0], output
    first, second = (json.loads((folder / f"{i}.json").read_text()) for i in (0, 1))
    assert first == second
    return first | {"folder": folder}


def test_hosts_that_agree_are_named_and_written_down(said):
    assert said["alike"]["names"] == [HOST, HOST]
    record = json.loads((said["folder"] / "agreed" / "hosts.json").read_text())
    assert record["hosts"] == [f"{HOST}/0", f"{HOST}/1"]
    assert record["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("recipe", "recipe.optimizer.peak_lr: 0.001 on {0}, 0.002 on {1}"),
        ("data", "data.reading.fingerprint: abc on {0}, xyz on {1}"),
        ("versions", f"versions.jax: {jax.__version__} on {{0}}, 0.9.9 on {{1}}"),
        ("versions", "versions.libtpu: None on {0}, 0.0.1 on {1}"),
        ("devices here", "devices.here: 1 on {0}, 4 on {1}"),
        ("run_dir", "{1}: run_dir:"),
        ("run_dir", "has not what process 0 has just written there; all hosts need one place"),
        ("old run_dir", "holds another run's hosts.json than process 0's"),
        ("code", "code: tpu/mesh.py: "),
    ],
)
def test_every_difference_names_host_and_value(said, case, expected):
    if "libtpu" in expected and "libtpu" in said["alike"]["versions"]:
        pytest.skip("libtpu is installed here")
    assert expected.format(f"{HOST}/0", f"{HOST}/1") in said[case]
    assert said[case].startswith("the hosts differ:")


def test_the_versions_of_all_that_computes_are_compared(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1")
    assert {"jax", "jaxlib", "libtpu"} <= _versions().keys()


def test_only_what_differs_is_named(said):
    assert said["recipe"].count("\n") == 1
    assert said["code"].count("\n") == 1, said["code"]


def test_one_hosts_trouble_is_everybodys(said):
    assert said["together"] == "both"
    assert said["one fails"] == f"the hosts differ:\n  {HOST}: stream reading: shard 3 is missing"
    assert said["all fail"] == "stream reading: no such folder", "the same everywhere: said once"


def test_fewer_processes_or_devices_than_there_should_be(said):
    assert f"{HOST} sees 2 processes, LECTERN_PROCESSES says 4" in said["processes"]
    assert f"{HOST} sees 2 devices, LECTERN_DEVICES says 16" in said["devices"]


def test_a_download_is_made_once_for_all(said):
    assert said["shared"] == [str(said["folder"] / "run" / "initial"), "{}"]
    assert [p.name for p in said["folder"].glob("found-*")] == ["found-0"]


def test_several_processes_keep_compilations_in_the_run_directory(said):
    # Off in tests (conftest.py), so nothing is set here; the place is checked below.
    assert said["cache"] is None


def test_alone_there_is_nothing_to_compare(tmp_path):
    hosts = check_hosts({}, {}, str(tmp_path / "run"))
    assert hosts.names == (HOST,)
    assert not (tmp_path / "run").exists()
    assert together(lambda: 3) == 3


def test_the_code_is_what_a_run_executes(root, tmp_path):
    digests = code_digests()
    assert {
        "train.py",
        "tpu/startup.py",
        "model/llama.py",
        "data/chat_templates/llama3.jinja",
    } <= digests.keys()
    assert not [name for name in digests if name.split("/")[0] not in CODE]
    (tmp_path / "tpu").mkdir()
    (tmp_path / "tpu" / "a.py").write_text("1")
    before = code_digests(tmp_path)
    (tmp_path / "tpu" / "a.py").write_text("2")
    assert before.keys() == code_digests(tmp_path).keys() == {"tpu/a.py"}
    assert before != code_digests(tmp_path)


def test_one_line_says_hosts_devices_mesh_and_batch():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(1, 1, 4, 1, 2, 1), AXES)
    hosts = Hosts(tuple(f"w{i}" for i in range(8)), "ab12", {"jax": "0.10.2", "flax": "0.12"})
    line = hosts.line(mesh, 32, 2048)
    assert "\n" not in line
    for part in (
        "8 hosts (w0, w1, ..., w7)",
        "8 cpu",
        "fsdp 4 x tensor 2",
        "32 rows x 2048 tokens = 65,536",
        "ab12",
        "jax 0.10.2",
    ):
        assert part in line, line


def test_the_first_steps_account_adds_up():
    seconds = {"other": 3.0, "data": 0.3, "compile": 1.7, "step": 0.2, "eval": 0.0}
    line = first_step_line(seconds, imported=2.5)
    assert line == "first step after 5.2 s: import 2.5, data 0.3, compile 1.7, step 0.2, other 0.5"


CACHE = """
import jax, os, sys
from tpu.runtime import use_compilation_cache
print(use_compilation_cache(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("run_dir", "settings", "expected"),
    [
        ("runs/a", {}, "{home}/lectern/compiled"),
        ("gs://bucket/a/", {}, "gs://bucket/a/compiled"),
        ("runs/a", {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"}, "/elsewhere"),
        ("runs/a", {"JAX_ENABLE_COMPILATION_CACHE": "false"}, "None"),
    ],
)
def test_where_compilations_are_kept(run_dir, settings, expected, root, tmp_path):
    clean = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
    done = subprocess.run(
        [sys.executable, "-c", CACHE, run_dir],
        cwd=root,
        env=clean | {"XDG_CACHE_HOME": str(tmp_path)} | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected.format(home=tmp_path)


def test_a_local_cache_does_not_grow_without_end(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}-cache").write_bytes(bytes(100))
        os.utime(tmp_path / f"{number}-cache", (number, number))
    _forget_oldest(tmp_path, most_bytes=250)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2-cache", "3-cache"]


@pytest.mark.slow
def test_a_run_whose_hosts_differ_ends_on_all_of_them(sample_streams, tmp_path):
    """train.py itself: another learning rate on the second host; a shard that one host cannot see."""
    recipe = tmp_path / "recipe.yaml"
    whole = {
        "run_dir": str(tmp_path / "run"),
        "tokenizer": str(sample_streams / "tokenizer"),
        "model": {"preset": "tiny", "num_layers": 1},
        "streams": {"biomedicine": {"path": str(sample_streams / "biomedicine")}},
        "train": {"num_steps": 2, "seq_len": 128, "global_batch_rows": 4},
        "optimizer": {"peak_lr": 1e-3},
    }
    recipe.write_text(json.dumps(whole))
    other = tmp_path / "other.yaml"
    other.write_text(json.dumps(whole | {"optimizer": {"peak_lr": 2e-3}}))
    codes, output = finish(start_processes(2, 1, "train.py", [recipe, other]))
    assert codes == [1, 1], output
    assert output.count("recipe.optimizer.peak_lr: 0.001 on") == 2
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", sample_streams / "biomedicine", copy], check=True)
    next(copy.glob("*array_record*")).unlink()
    other.write_text(json.dumps(whole | {"streams": {"biomedicine": {"path": str(copy)}}}))
    codes, output = finish(start_processes(2, 1, "train.py", [recipe, other]))
    assert codes == [1, 1], output
    assert output.count(f"{HOST}: stream biomedicine: {copy}: shard") == 2


def test_initial_weights_of_a_hub_id_are_fetched_and_others_left_where_they_are(
    tmp_path, monkeypatch
):
    from etils import epath

    from configs.recipe import TrainRecipe
    from configs.resolve import drop_copy, locate_weights

    fetched = []

    def fetch(source, revision):
        fetched.append((source, revision))
        return epath.Path(tmp_path / "snapshot")

    monkeypatch.setattr("model.huggingface.load.fetch", fetch)

    def recipe(**model):
        return TrainRecipe.model_validate(
            {
                "run_dir": str(tmp_path / "run"),
                "model": model,
                "tokenizer": "t",
                "streams": {"a": {"path": "a"}},
                "train": {"num_steps": 1, "global_batch_rows": 1},
            }
        )

    located = locate_weights(recipe(init_from="org/name", revision="abc"))
    assert fetched == [("org/name", "abc")]
    assert located.model.init_from == str(tmp_path / "snapshot")
    assert located.model.revision is None
    for own in (recipe(init_from=str(tmp_path)), recipe(preset="tiny")):
        assert locate_weights(own) == own
    monkeypatch.setattr("training.steps.newest_meta", lambda run_dir: {"step": 0})
    begun = recipe(init_from="org/name")
    assert locate_weights(begun) == begun, "a run that has begun does not go back to the hub"
    assert len(fetched) == 1
    (tmp_path / "run" / "initial").mkdir(parents=True)
    drop_copy(str(tmp_path / "run"))
    assert not (tmp_path / "run" / "initial").exists()
