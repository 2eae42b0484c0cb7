"""The code as one file to copy to the workers: `python -m tpu.bundle OUT.tgz [COMMIT]`.

Without a commit it is the working tree as it stands: what git tracks, with changes, and new files that git
does not ignore. Beside the code lie `.files`, the list of what was packed, so that the next copy can take
away what is no longer there, and `.code`, one line that says what it is.
"""

import io
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def pack(out: Path, commit: str | None = None, *, root: Path = ROOT) -> str:
    """Writes the file and gives its line of description.

    Raises:
        ValueError: no git checkout, or no such commit.
    """
    if commit is None:
        names = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split(
            b"\0"
        )
        files = {
            name.decode(): (root / name.decode()).read_bytes()
            for name in sorted(set(names))
            if name and (root / name.decode()).is_file()
        }
        modes = {name: (root / name).stat().st_mode & 0o777 for name in files}
        changed = len(_git(root, "status", "--porcelain").splitlines())
        head = _git(root, "rev-parse", "--short=12", "HEAD").decode().strip()
        said = f"{head} and {changed} changed files" if changed else head
    else:
        said = _git(root, "rev-parse", "--short=12", f"{commit}^{{commit}}").decode().strip()
        with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", "--format=tar", said))) as tar:
            members = [member for member in tar if member.isfile()]
            modes = {member.name: member.mode for member in members}
            files = {m.name: file.read() for m in members if (file := tar.extractfile(m))}
    files[".code"] = f"{said}\n".encode()
    files[".files"] = "".join(f"{name}\n" for name in sorted(files)).encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w:gz") as tar:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), modes.get(name, 0o644)
            tar.addfile(entry, io.BytesIO(content))
    return said


def _git(root: Path, *words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"git {' '.join(words)}: {done.stderr.decode().strip()}")
    return done.stdout


def main(argv: Sequence[str]) -> int:
    """Packs, and says what."""
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        return 0
    if not 1 <= len(argv) <= 2 or argv[0].startswith("-"):
        print((__doc__ or "").split("\n")[0], file=sys.stderr)
        return 1
    try:
        print(pack(Path(argv[0]), argv[1] if len(argv) == 2 else None))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
