"""The code as it is packed: the working tree or a commit, and nothing that git ignores."""

import subprocess
import tarfile

import pytest

from tpu.bundle import main, pack


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    root.mkdir()

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)

    git("init", "-q")
    (root / ".gitignore").write_text("runs/\n")
    (root / "train.py").write_text("print(1)\n")
    (root / "gone.py").write_text("\n")
    (root / "setup.sh").write_text("#!/bin/sh\n")
    (root / "setup.sh").chmod(0o755)
    git("add", ".")
    git("commit", "-qm", "first")
    (root / "train.py").write_text("print(2)\n")
    (root / "gone.py").unlink()
    (root / "new.py").write_text("\n")
    (root / "runs").mkdir()
    (root / "runs" / "log").write_text("large")
    return root


def packed(path):
    with tarfile.open(path) as tar:
        files = [(member, tar.extractfile(member)) for member in tar]
        return {m.name: (file.read().decode(), m.mode) for m, file in files if file}


def test_the_working_tree_is_packed_as_it_stands(checkout, tmp_path):
    said = pack(tmp_path / "out" / "code.tgz", root=checkout)
    files = packed(tmp_path / "out" / "code.tgz")
    assert files.keys() == {".gitignore", "train.py", "setup.sh", "new.py", ".code", ".files"}
    assert files["train.py"][0] == "print(2)\n"
    assert files["setup.sh"][1] & 0o100, "what can be executed still can"
    assert said.endswith("and 3 changed files")
    assert files[".code"][0] == f"{said}\n"
    assert set(files[".files"][0].split()) == files.keys() - {".files"}


def test_a_commit_is_packed_without_what_came_after(checkout, tmp_path):
    said = pack(tmp_path / "code.tgz", "HEAD", root=checkout)
    files = packed(tmp_path / "code.tgz")
    assert files.keys() == {".gitignore", "train.py", "gone.py", "setup.sh", ".code", ".files"}
    assert files["train.py"][0] == "print(1)\n"
    assert files["setup.sh"][1] & 0o100
    assert len(said) == 12


def test_what_cannot_be_packed_is_said(checkout, tmp_path, capsys):
    with pytest.raises(ValueError, match="nothere"):
        pack(tmp_path / "code.tgz", "nothere", root=checkout)
    with pytest.raises(ValueError, match="not a git repository"):
        pack(tmp_path / "code.tgz", root=tmp_path)
    assert main([]) == 1
    assert "OUT.tgz" in capsys.readouterr().err
