"""A worker's keeper: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def virtual_environment(place: Path) -> Path:
    """An environment of the same packages as this one, already "installed" for tpu/setup.sh."""
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to(sys.executable)
    own = Path(sys.prefix)
    if (own / "pyvenv.cfg").exists():
        (place / "pyvenv.cfg").write_text((own / "pyvenv.cfg").read_text())
        (place / "lib").symlink_to(own / "lib")
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    sum_ = subprocess.run(["cksum"], input=content, capture_output=True, check=True).stdout.split()[
        0
    ]
    (place / f".installed-tpu-{sum_.decode()}").touch()
    return place


def worker(folder, *words, **more):
    return subprocess.run(
        [sys.executable, str(ROOT / "tpu" / "worker.py"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **more,
    )


def status(folder):
    return json.loads(worker(folder, "status").stdout)


PYTHON = (sys.executable, "-c")
SAVES = "import signal,sys,time\nsignal.signal(15, lambda *_: sys.exit(75))\nprint('on', flush=True)\ntime.sleep(60)"


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    worker(tmp_path, "stop", "--grace=0")


def test_output_from_any_byte_on_and_the_exit_code(folder):
    said = "print('one\\ntwo', end=''); raise SystemExit(3)"
    assert worker(folder, "start", "--id=a", "--", *PYTHON, said).returncode == 0
    whole = worker(folder, "follow", "--id=a")
    assert (whole.returncode, whole.stdout) == (0, "4 one\n8 two\nend 3\n")
    assert worker(folder, "follow", "--id=a", "--from=4").stdout == "8 two\nend 3\n"
    assert worker(folder, "follow", "--id=a", "--from=8").stdout == "end 3\n"
    assert worker(folder, "follow", "--id=b").stdout == "end 249\n"
    assert status(folder) | {"pid": 0} == {"id": "a", "pid": 0, "running": False, "code": 3}


def test_a_command_that_is_given_again_is_not_started_again(folder):
    """As gcloud does when the connection breaks after the start."""
    words = ("start", "--id=a", "--", *PYTHON, "open('times', 'a').write('once ')")
    for _ in range(2):
        assert worker(folder, *words).returncode == 0
        assert worker(folder, "follow", "--id=a").stdout == "end 0\n"
    assert (folder / "times").read_text() == "once "


def test_sigterm_reaches_python_and_its_exit_code_comes_back(folder):
    """As the launcher starts it: a login shell that is told to exec."""
    line = (
        f'exec {sys.executable} {ROOT}/tpu/worker.py start --id=a -- {sys.executable} -c "$SAVES"'
    )
    subprocess.run(["bash", "-c", line], cwd=folder, env=os.environ | {"SAVES": SAVES}, check=True)
    until_on(folder)
    pid = status(folder)["pid"]
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for process in (pid, parent):
        assert "python" in os.readlink(f"/proc/{process}/exe"), "no shell in between"
    # What a machine that goes down does: to every process of the session.
    os.kill(parent, signal.SIGTERM)
    os.kill(pid, signal.SIGTERM)
    assert worker(folder, "follow", "--id=a").stdout.splitlines()[-1] == "end 75"


def until_on(folder):
    while "on" not in (folder / ".run" / "log").read_text():
        time.sleep(0.02)


def test_stop_tells_first_and_kills_what_does_not_go(folder):
    worker(folder, "start", "--id=a", "--", *PYTHON, SAVES)
    until_on(folder)
    assert worker(folder, "start", "--id=b", "--", *PYTHON, SAVES).returncode == 1, "one at a time"
    assert worker(folder, "stop", "--grace=20").returncode == 0
    assert status(folder)["code"] == 75
    plain = "print('on', flush=True); import time; time.sleep(60)"
    worker(folder, "start", "--id=b", "--", *PYTHON, plain)
    until_on(folder)
    assert worker(folder, "stop", "--grace=20").returncode == 0
    assert status(folder)["code"] == 128 + 15, "what has no ear of its own yet goes as well"
    deaf = "import signal,time\nsignal.signal(15, signal.SIG_IGN)\nprint('on', flush=True)\ntime.sleep(60)"
    worker(folder, "start", "--id=c", "--", *PYTHON, deaf)
    until_on(folder)
    assert worker(folder, "stop", "--grace=0.3").returncode == 0
    assert status(folder)["code"] == 128 + 9


def test_a_machine_that_went_down_leaves_no_exit_code_and_is_not_taken_for_running(folder):
    worker(folder, "start", "--id=a", "--", *PYTHON, SAVES)
    until_on(folder)
    pid = status(folder)["pid"]
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        time.sleep(0.01)
    assert status(folder)["code"] == 250
    # The number may belong to somebody else by then.
    found = json.loads((folder / ".run" / "started").read_text())
    (folder / ".run" / "started").write_text(json.dumps(found | {"pid": os.getpid()}))
    assert status(folder)["running"] is False


def test_variables_from_the_line_and_from_a_file(folder):
    (folder / "env").write_text("TOKEN=a=b\n")
    read = "import os; print(os.environ['TOKEN'], os.environ['COUNT'])"
    worker(folder, "start", "--id=a", "--env=COUNT=2", "--env-file=env", "--", *PYTHON, read)
    assert worker(folder, "follow", "--id=a").stdout == "6 a=b 2\nend 0\n"


def test_a_command_that_cannot_be_executed_says_so(folder):
    done = worker(folder, "start", "--id=a", "--", "./not-there")
    assert done.returncode == 1
    assert "not-there" in done.stderr


def test_a_step_whose_save_did_not_finish_is_not_the_newest(tmp_path):
    """It costs the steps since the one before, and is no progress that would earn more restarts."""
    steps = tmp_path / "run" / "checkpoints"
    assert worker(ROOT, "newest", str(tmp_path / "run")).stdout == "-1\n"
    for name in ("5", "10", "15.orbax-checkpoint-tmp-0"):
        (steps / name).mkdir(parents=True)
        (steps / name / "_CHECKPOINT_METADATA").write_text("{}")
    assert worker(ROOT, "newest", str(tmp_path / "run")).stdout == "10\n"
