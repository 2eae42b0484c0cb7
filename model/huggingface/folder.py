"""A folder that appears whole or not at all: written aside, then put where it was asked for, or on the Hub."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from etils import epath


def check_out(out: str, *, field: str = "OUT") -> None:
    """Refuses a folder that an export would not replace, before hours of work are put into it.

    Raises:
        ValueError: it is a file, lies below one, or holds something else than an earlier export.
    """
    folder = epath.Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{field}: {out} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "parity.json").exists():
        raise ValueError(
            f"{field}: {out} holds other files, and an export only replaces an earlier export; "
            "name another folder"
        )
    if not _is_remote(out):
        above = next(p for p in Path(out).expanduser().absolute().parents if p.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            raise ValueError(f"{field}: {out} cannot be written: {above} is not a writable folder")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """A JSON file as people read it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _is_remote(out: str) -> bool:
    return "://" in out


def staging(out: str) -> Path:
    """A local folder to write to: beside OUT where that is local, so that putting it there is a rename."""
    if _is_remote(out):
        return Path(tempfile.mkdtemp(prefix="lectern-export-"))
    place = Path(out).expanduser().absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        raise ValueError(f"OUT: {out} cannot be written: {error}") from error


def publish(staged: Path, out: str) -> None:
    """Put the verified folder in place of what was there."""
    staged.chmod(0o755)
    if not _is_remote(out):
        place = Path(out).expanduser().absolute()
        old = place.with_name(f".{place.name}-old-{os.getpid()}")
        if place.exists():
            place.rename(old)
        staged.rename(place)
        shutil.rmtree(old, ignore_errors=True)
        return
    import fsspec

    fs, root = fsspec.core.url_to_fs(out.rstrip("/"))
    before = set(fs.find(root)) if fs.exists(root) else set()
    files = sorted(p for p in staged.iterdir() if p.is_file())
    # Without config.json it is no model: that comes last, and goes first.
    files.sort(key=lambda p: p.name == "config.json")
    if f"{root}/config.json" in before:
        fs.rm_file(f"{root}/config.json")
    for path in files:
        fs.put_file(str(path), f"{root}/{path.name}")
    for stale in before - {f"{root}/{p.name}" for p in files}:
        if "/" not in stale.removeprefix(f"{root}/"):
            fs.rm_file(stale)


def keep_failed(staged: Path, out: str) -> str:
    """Puts a folder that must not be published beside OUT, as OUT.failed; says where it is."""
    if _is_remote(out):
        failed = Path(tempfile.mkdtemp(prefix="lectern-export-failed-"))
    else:
        place = Path(out).expanduser().absolute()
        failed = place.with_name(f"{place.name}.failed")
    shutil.rmtree(failed, ignore_errors=True)
    staged.rename(failed)
    return str(failed)


def push_to_hub(folder: Path, hub_id: str) -> None:
    """Uploads a folder, making the repository where there is none."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    api.create_repo(hub_id, exist_ok=True)
    api.upload_folder(repo_id=hub_id, folder_path=str(folder), commit_message="Export from Lectern")
