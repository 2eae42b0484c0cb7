"""One of two processes that compare what they have: `agree.py FOLDER`; what each case said goes to FOLDER/<process>.json."""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import jax
from etils import epath

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tpu import startup
from tpu.runtime import start, use_compilation_cache

ROOT = Path(__file__).resolve().parents[2]
RECIPE = {"optimizer": {"peak_lr": 1e-3}, "mesh": {"fsdp": -1}}
DATA = {"reading": {"fingerprint": "abc", "num_rows": 7}}


def main() -> None:
    folder = Path(sys.argv[1])
    start()
    second = jax.process_index() == 1
    said: dict[str, object] = {}

    def case(name, recipe=RECIPE, data=DATA, run_dir=folder / "run", patch=None):
        with patch or contextlib.nullcontext():
            try:
                hosts = startup.check_hosts(recipe, data, str(run_dir))
                said[name] = {"names": hosts.names, "code": hosts.code, "versions": hosts.versions}
            except ValueError as error:
                said[name] = str(error)

    case("alike", run_dir=folder / "agreed")
    case(
        "recipe", recipe={"optimizer": {"peak_lr": 2e-3 if second else 1e-3}, "mesh": {"fsdp": -1}}
    )
    case("data", data={"reading": {"fingerprint": "xyz" if second else "abc", "num_rows": 7}})
    versions = {"jax": "0.9.9", "libtpu": "0.0.1"}
    case(
        "versions",
        patch=mock.patch.object(startup, "_versions", return_value=versions) if second else None,
    )
    four = mock.Mock(wraps=jax, local_device_count=lambda: 4)
    case("devices here", patch=mock.patch.object(startup, "jax", four) if second else None)
    case("run_dir", run_dir=folder / ("elsewhere" if second else "here"))
    old = folder / "elsewhere"
    old.mkdir(exist_ok=True)
    (old / "hosts.json").write_text('{"nonce": "of another run"}')
    case("old run_dir", run_dir=old if second else folder / "here")
    if second:
        for name in ("tpu", "train.py"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / "code" / name)
        (folder / "code" / "tpu" / "mesh.py").write_text("# another one\n")
    mine = {
        name: digest
        for name, digest in startup.code_digests(folder / "code" if second else ROOT).items()
        if name.startswith("tpu/") or name == "train.py"
    }
    case("code", patch=mock.patch.object(startup, "code_digests", return_value=mine))

    def fails_on_the_second():
        if second:
            raise ValueError("stream reading: shard 3 is missing")
        return "fine"

    def fails_everywhere():
        raise ValueError("stream reading: no such folder")

    for name, work in (
        ("together", lambda: "both"),
        ("one fails", fails_on_the_second),
        ("all fail", fails_everywhere),
    ):
        try:
            said[name] = startup.together(work)
        except ValueError as error:
            said[name] = str(error)
    with mock.patch.dict(os.environ, {"LECTERN_PROCESSES": "4"}):
        case("processes")
    with mock.patch.dict(os.environ, {"LECTERN_DEVICES": "16"}):
        case("devices")

    def find() -> epath.Path:
        (folder / f"found-{jax.process_index()}").write_text("")
        made = folder / "hub"
        made.mkdir()
        (made / "config.json").write_text("{}")
        return epath.Path(made)

    place = startup.share_folder(find, epath.Path(folder / "run" / "initial"))
    said["shared"] = [str(place), (place / "config.json").read_text()]
    said["cache"] = use_compilation_cache(str(folder / "run"))
    (folder / f"{jax.process_index()}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    (Path(sys.argv[1]) / "code").mkdir(exist_ok=True)
    main()
