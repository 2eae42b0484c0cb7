"""The launcher against a stand-in gcloud: real command lines, real processes on "workers" that are folders."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.tpu.test_worker import virtual_environment
from tpu.launch import main

ROOT = Path(__file__).resolve().parents[2]
STANDIN = Path(__file__).parent / "standin"
RECIPE = "configs/quickstart.yaml"
# What is started in the background of a script has Ctrl-C switched off; here it is to count.
WITH_CTRL_C = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A cloud of two-host slices on the PATH; the launcher's own files go to the temporary folder."""
    venv = virtual_environment(tmp_path / "venv")
    place = tmp_path / "cloud"
    place.mkdir()
    (place / "settings.json").write_text(json.dumps({"hosts": 2, "venv": str(venv)}))
    monkeypatch.setenv("LECTERN_STANDIN", str(place))
    monkeypatch.setenv("PATH", f"{STANDIN}:{os.environ['PATH']}")
    (tmp_path / "run").mkdir()
    yield place
    delete = ("queued-resources", "delete", "demo", "--zone=z", "--force")
    subprocess.run(["gcloud", "compute", "tpus", *delete], capture_output=True, check=False)


class Launch:
    """`python -m tpu.launch` in a process of its own, its output gathered."""

    def __init__(self, tmp_path, *more, name="demo", steps=6):
        run_dir = tmp_path / "run"
        words = [
            *(sys.executable, "-m", "tpu.launch", RECIPE, f"--name={name}", "--zone=us-x1-a"),
            *("--type=v5litepod-16", "--spot", "--poll=0.2", f"run_dir={run_dir}"),
            f"--command=tests/tpu/trainer.py {run_dir} {steps}",
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WITH_CTRL_C, *words, *more],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # The launcher's own folder lies below the working directory; keep it out of the checkout.
            env=os.environ | {"LECTERN_LAUNCHES": str(tmp_path / "launches")},
        )
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def until(self, pattern, count=1):
        limit = time.monotonic() + 300
        while sum(bool(re.search(pattern, line)) for line in list(self.lines)) < count:
            assert self.process.poll() is None, "".join(self.lines)
            assert time.monotonic() < limit, "".join(self.lines)
            time.sleep(0.05)

    def end(self):
        code = self.process.wait(timeout=300)
        self._thread.join()
        return code, "".join(self.lines)


def calls(cloud):
    lines = [json.loads(line) for line in (cloud / "calls.jsonl").read_text().splitlines()]
    return [" ".join(words[2:4]) for words in lines], lines


def state(cloud):
    return json.loads((cloud / "state.json").read_text())


def order(tmp_path, text):
    (tmp_path / "run" / "part").write_text(text)
    (tmp_path / "run" / "part").replace(tmp_path / "run" / "order")  # nobody reads half of it


def test_create_run_preempt_recreate_resume_delete(cloud, tmp_path):
    trouble = [["refuse", "tpu.worker newest"], ["lose", "tpu.worker start"]]
    trouble += [["refuse", "queued-resources delete"]]
    (cloud / "trouble.json").write_text(json.dumps(trouble))
    order(tmp_path, "wait 2")
    launch = Launch(tmp_path)
    launch.until(r"\[worker [01]\] waits at step 2", count=2)
    subprocess.run(["gcloud", "standin", "drop", "demo", "0"], check=True)
    order(tmp_path, "wait 3")
    launch.until(r"\[worker [01]\] waits at step 3", count=2)
    subprocess.run(["gcloud", "standin", "preempt", "demo"], check=True)
    order(tmp_path, "go")
    code, said = launch.end()
    assert code == 0, said

    verbs, _ = calls(cloud)
    told = [v for v in verbs if v.split()[1] in ("create", "delete", "scp")]
    once = ["queued-resources create", "tpu-vm scp"]
    delete = "queued-resources delete"
    assert told == [*once, delete, delete, *once, delete], said
    assert json.loads((cloud / "trouble.json").read_text()) == [], "all of it happened"
    assert state(cloud)["requests"] == state(cloud)["nodes"] == {}
    assert "[worker 0] from step 0" in said
    assert "[worker 0] from step 3" in said, "the second machines go on where the first were"
    for line in ("from step 0", "step 1", "step 2", "waits at step 2", "step 3"):
        assert said.count(f"[worker 0] {line}\n") + said.count(f"[worker 0] {line},") == 1, (
            f"{line}: whatever is lost on the way comes once"
        )
    assert "[worker 0] 2 processes, 16 devices" in said
    assert said.count("[worker 0] end at step 6") == 1
    assert "starting on 2 worker(s), from step 3" in said
    assert re.search(r"\[launch\] lost: .*SUSPENDED", said), said
    assert said.count("starting on 2 worker(s)") == 2, (
        "nothing of the first attempt is taken for the second"
    )
    log = (tmp_path / "launches" / "demo" / "worker-0.log").read_text()
    assert "step 6" in log


@pytest.mark.slow
def test_told_to_go_and_an_error(cloud, tmp_path):
    """75 is started again on the same machines; 1 is the end, for the machines too."""
    order(tmp_path, "wait 2")
    launch = Launch(tmp_path)
    launch.until(r"\[worker [01]\] waits at step 2", count=2)
    pids = {
        i: json.loads(next(cloud.glob(f"demo/1/worker-{i}/lectern/.run/started")).read_text())[
            "pid"
        ]
        for i in (0, 1)
    }
    # SIGTERM goes to the command itself: no shell is in between, and it is Python that says 75.
    assert "python" in os.readlink(f"/proc/{pids[0]}/exe")
    for pid in pids.values():
        os.kill(pid, 15)
    launch.until(r"\[launch\] told to go")
    order(tmp_path, "wait 4")
    launch.until(r"\[worker [01]\] waits at step 4", count=2)
    order(tmp_path, "exit 4 1")
    code, said = launch.end()
    assert code == 1, said
    assert "told to go, and saved itself (exit codes" in said
    assert re.search(r"\[launch\] error \(exit codes .*worker \d: 1", said)
    verbs, _ = calls(cloud)
    assert verbs.count("queued-resources create") == 1
    assert verbs.count("tpu-vm scp") == 1, "the machines at hand keep code and dependencies"
    assert state(cloud)["nodes"] == {}


@pytest.mark.slow
def test_a_worker_that_is_gone_is_replaced_and_a_run_without_progress_given_up(cloud, tmp_path):
    order(tmp_path, "wait 1")
    launch = Launch(tmp_path)
    launch.until(r"\[worker [01]\] waits at step 1", count=2)
    subprocess.run(["gcloud", "standin", "unplug", "demo", "1"], check=True)
    order(tmp_path, "exit 1 137")
    code, said = launch.end()
    assert code == 1, said
    assert "connection to worker 1 lost, connecting again" in said
    assert "given up after 3 restarts without a newer checkpoint (newest: step 1)" in said
    verbs, _ = calls(cloud)
    assert verbs.count("queued-resources create") == 2
    starts = said.count("starting on 2 worker(s)")
    assert starts == 5, "one, one for the checkpoint at step 1, and three without a newer one"


@pytest.mark.slow
def test_ctrl_c_leaves_the_run_and_the_same_command_follows_it(cloud, tmp_path):
    order(tmp_path, "wait 2")
    first = Launch(tmp_path)
    first.until(r"\[worker [01]\] waits at step 2", count=2)
    first.process.send_signal(2)
    code, said = first.end()
    assert code == 130
    assert "left running" in said
    assert "gcloud compute tpus queued-resources delete demo" in said
    second = Launch(tmp_path, "--keep")
    second.until("goes on there; following it")
    order(tmp_path, "go")
    code, said = second.end()
    assert code == 0, said
    assert "[worker 1] end at step 6" in said
    assert "[worker 0] from step 0" in said, "all of its output, from the beginning"
    verbs, _ = calls(cloud)
    assert verbs.count("queued-resources create") == verbs.count("tpu-vm scp") == 1
    assert "demo" in state(cloud)["nodes"], "--keep"
    subprocess.run(["gcloud", "standin", "unplug", "demo", "1"], check=True)
    code, said = Launch(tmp_path).end()
    assert code == 1
    assert "What was made may still be there: gcloud compute tpus queued-resources delete" in said
    assert "demo" in state(cloud)["nodes"], "what cannot be asked is left alone"


@pytest.fixture
def dry(root, tmp_path, monkeypatch, capsys):
    """`python -m tpu.launch RECIPE --dry-run WORDS` in this process: its exit code, output and complaint."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("LECTERN_LAUNCHES", str(tmp_path / "launches"))

    def run(*words):
        try:
            code = main([RECIPE, "--dry-run", *words])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_dry_run_prints_the_commands_that_a_launch_gives(cloud, dry, tmp_path):
    """Line by line what the stand-in then sees, and every line reads back as the words it was made of."""
    run = tmp_path / "run"
    common = ["--name=demo", "--zone=us-x1-a", "--type=v5litepod-16", f"run_dir={run}"]
    common += [f"--command=tests/tpu/trainer.py {run} 2", "--spot"]
    code, out, err = dry(*common)
    assert code == 0, err
    assert not (cloud / "calls.jsonl").exists(), "nothing is carried out"
    printed = {
        tuple(shlex.split(line)[1:]) for line in out.splitlines() if line.startswith("gcloud ")
    }
    assert Launch(tmp_path, steps=2).end()[0] == 0
    _, given = calls(cloud)

    def plain(words):
        return tuple(re.sub(r"demo\.\d+|PROCESSES=\d+", "ID", word) for word in words)

    missing = {plain(words) for words in given} - {plain(words) for words in printed}
    assert not missing
    groups = [line.split()[3:5] for line in out.splitlines() if line.startswith("gcloud ")]
    assert groups[0] == ["queued-resources", "create"]
    assert groups[-1] == ["queued-resources", "delete"]


def test_several_slices_and_a_machine_at_once(dry):
    place = ["--zone=z", "run_dir=gs://b/r"]
    code, out, _ = dry("--name=big", "--type=v5p-16", "--slices=2", *place)
    assert code == 0
    assert (
        "--node-count=2 --node-prefix=big --runtime-version=v2-alpha-tpuv5 --accelerator-type=v5p-16"
        in out
    )
    assert "LECTERN_PROCESSES=4" in out
    assert "LECTERN_DEVICES=16" in out
    assert "ssh big-1 --zone=z --worker=1" in out
    code, out, _ = dry("--name=one", "--type=v6e-8", "--direct", "--project=p", *place)
    assert code == 0
    create = "gcloud compute tpus tpu-vm create one --project=p --zone=z --version=v2-alpha-tpuv6e --accelerator-type=v6e-8"
    assert create in out.splitlines()
    assert "gcloud compute tpus tpu-vm delete one --project=p --zone=z --quiet" in out.splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--type=v5litepod-16", "--zone=z", "run_dir=gs://b/r"], "--name: needed"),
        (["--name=a", "--zone=z", "--type=v5e-16", "run_dir=gs://b/r"], "v5litepod-N"),
        (["--name=A_b", "--zone=z", "--type=v6e-8"], "--name: 'A_b'"),
        (["--name=a", "--zone=z", "--type=v5p-9"], "TensorCores"),
        (["--name=a", "--zone=z", "--type=v5litepod-16"], "run_dir: runs/quickstart lies on each"),
        (["--name=a", "--zone=z", "--type=v6e-8", "--env=NOT_SET_HERE"], "NOT_SET_HERE not set"),
        (["--name=a", "--zone=z", "--type=v6e-8", "--direct", "--slices=2"], "--slices"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked_for(words, said, dry):
    code, _, err = dry(*words)
    assert code == 1
    assert said in err
