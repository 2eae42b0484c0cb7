"""tpu/setup.sh with Pythons that only write down what they are told; and every line of shell that we have."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tpu.commands import Commands, Job, dry_run
from tpu.request import Request

# Answers as a Python that is new enough, or not; makes "virtual environments" that hold itself.
FAKE = """#!/bin/bash
case "$*" in
  *version_info*) exit {old} ;;
  "-m venv --clear "*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  --version) echo "Python 3.99"; exit ;;
esac
echo "$*" >> "$LOG"
"""


@pytest.fixture
def place(root, tmp_path):
    """A copy of the code, as far as setup.sh looks at it, on a machine that has no Python of its own."""
    (tmp_path / "code" / "tpu").mkdir(parents=True)
    shutil.copy(root / "tpu" / "setup.sh", tmp_path / "code" / "tpu" / "setup.sh")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / "code" / name).write_text(f"{name}\n")
    (tmp_path / "bin").mkdir()
    for name in ("bash", "cat", "cksum", "cut", "dirname", "mkdir", "cp", "rm", "touch"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    return tmp_path


def python(place, name, *, new=True):
    path = place / "bin" / name
    path.write_text(FAKE.format(old=0 if new else 1))
    path.chmod(0o755)


def setup(place, **env):
    """One run: its exit code, what it said, and what it told the Pythons."""
    log = place / "log"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", place / "code" / "tpu" / "setup.sh", "../venv"],
        cwd=place,
        env={"PATH": str(place / "bin"), "LOG": str(log)} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    told = log.read_text().splitlines() if log.exists() else []
    return done.returncode, done.stdout + done.stderr, told


def test_it_installs_once_and_again_when_the_dependencies_change(place):
    python(place, "python3", new=False)
    python(place, "python3.11")
    code, said, told = setup(place)
    assert (code, told[0]) == (0, "-m venv --clear ../venv"), said
    assert told[1].startswith("-m pip install ")
    assert told[1].endswith("-c constraints.txt -e .[tpu]")
    assert setup(place) == (0, "ready: ../venv\n", [])
    (place / "code" / "constraints.txt").write_text("another\n")
    code, _, told = setup(place)
    assert (code, len(told)) == (0, 1), "the environment is there already"
    assert len(list((place / "venv").glob(".installed-*"))) == 1


def test_other_machines_get_other_dependencies(place):
    python(place, "python3")
    assert setup(place, EXTRA="gpu")[2][-1].endswith("-e .[gpu]")
    assert setup(place, EXTRA="")[2][-1].endswith("-e .")


def test_a_bare_tpu_vm_gets_a_python(place):
    """Ubuntu 22.04: Python 3.10, and apt-get, which may have to wait for its lock."""
    python(place, "python3", new=False)
    code, said, _ = setup(place)
    assert code == 1
    assert "no Python 3.11 or newer" in said
    (place / "bin" / "apt-get").symlink_to("sudo")
    (place / "bin" / "new").write_text(FAKE.format(old=0))
    sudo = 'echo "sudo $*" >> "$LOG"\n[[ "$*" != *install* ]] || cp -p "${0%/*}/new" "${0%/*}/python3.11"'
    (place / "bin" / "sudo").write_text(f"#!/bin/bash\n{sudo}\n")
    for name in ("new", "sudo"):
        (place / "bin" / name).chmod(0o755)
    code, said, told = setup(place)
    assert code == 0, said
    assert [line.split()[-1] for line in told[:2]] == ["update", "python3.11-venv"]
    assert all("DPkg::Lock::Timeout=" in line for line in told[:2])
    assert told[2] == "-m venv --clear ../venv"


def test_a_pip_that_fails_is_no_installation(place):
    python(place, "python3")
    (place / "bin" / "python3").write_text(FAKE.format(old=0) + '[[ "$*" != *pip* ]]\n')
    assert setup(place)[0] == 1
    python(place, "python3")
    assert setup(place)[0] == 1, "the environment still holds the other"
    shutil.rmtree(place / "venv")
    assert setup(place)[0] == 0


SHELLCHECK = str(Path(sys.executable).parent / "shellcheck")


def test_every_shell_script_is_clean(root):
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True)
    scripts = []
    for name in filter(None, tracked.stdout.decode().split("\0")):
        path = root / name
        if path.is_file() and path.open("rb").readline(64).startswith(
            (b"#!/bin/", b"#!/usr/bin/env bash")
        ):
            scripts.append(path)
    assert {"setup.sh", "run"} <= {path.name for path in scripts}
    done = subprocess.run([SHELLCHECK, *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_line_for_a_workers_shell_is_clean(tmp_path):
    """What sshd gives to the login shell, as a launch with everything has it."""
    job = Job(("train.py", "a.yaml", "run_dir=gs://b/r", "x=a b"), "gs://b/r", "HEAD", ("TOKEN",))
    request = Request("demo", "z", "v5litepod-16", spot=True)
    flag = "--command="
    lines = {
        word.removeprefix(flag)
        for line in dry_run(Commands(request, job, tmp_path))
        if not line.startswith("#")
        for word in shlex.split(line)
        if word.startswith(flag)
    }
    assert len(lines) == 6, "install, status, stop, newest, start, follow"
    done = subprocess.run(
        [SHELLCHECK, "--shell=sh", "-"],
        input="\n".join(f"({line})" for line in sorted(lines)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
