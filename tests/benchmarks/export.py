"""Memory and speed of export and load at 1.3B parameters: `python tests/benchmarks/export.py [FOLDER] [--tokenizer PATH]`.

1. Makes a run directory with weights only (5.4 GB; kept in FOLDER for the next time).
2. Exports it with --max_shard_size 500MB in a child process, sampling its anonymous memory (RssAnon):
   at most 2 shards + 0.7 GB are promised, verification included.
3. Writes the weights (digests verified), copies the checkpoint's files and the written ones, in turn: writing promises
   half the speed of copying. In bfloat16 the checkpoint's files are twice the size of the written ones.
4. Loads the folder in 2 processes of one device each: each promises its share of the float32 weights + 1 GB.

Needs 20 GB of disk. Prints a table; nothing is asserted, since both depend on the machine.
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRESET = "instructlm_1_3b"
SHARD = 500e6

MAKE = """
import sys, jax
from model.config import ModelConfig, resolve
from model.llama import init_params
from training.checkpoint import Checkpointer
from training.config import CheckpointConfig
config = resolve(ModelConfig(preset=sys.argv[2]), tokenizer_vocab=None, base=None)
params = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
meta = {"rows": 0, "counts": {}, "recipe": {}, "data": {}, "deal": None, "model": config.model_dump(mode="json"),
        "tokenizer": {"fingerprint": None, "add_bos": True, "add_eos": True}}
with Checkpointer(sys.argv[1], CheckpointConfig()) as checkpointer:
    checkpointer.save(0, params, None, meta, wait=True)
if len(sys.argv) > 3:
    from data.tokenizer import load_tokenizer
    load_tokenizer(sys.argv[3]).save(sys.argv[1] + "/tokenizer")
"""

LOAD = """
import sys, time, jax
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
from model.huggingface.config import read_config
from model.huggingface.load import load_params
from model.llama import abstract_params, param_names
from tpu.config import MeshConfig
from tpu.mesh import make_mesh, param_specs
config = read_config(sys.argv[1])
mesh = make_mesh(MeshConfig(fsdp=2))
begun = time.monotonic()
params = load_params(sys.argv[1], config, param_specs(param_names(config), abstract_params(config), mesh), mesh)
jax.block_until_ready(params)
share = sum(s.data.nbytes for leaf in jax.tree.leaves(params) for s in leaf.addressable_shards)
print("share", share, "seconds", time.monotonic() - begun)
"""


WRITE = """
import sys, time
from pathlib import Path
from model.config import LlamaConfig
from model.huggingface.save import plan, write_weights
from training.checkpoint import LayerReader
reader = LayerReader(sys.argv[1], 0)
planned = plan(LlamaConfig(**reader.meta["model"]), dtype=sys.argv[3], max_shard_size=500_000_000)
Path(sys.argv[2]).mkdir()
begun = time.monotonic()
write_weights(reader.read, planned, sys.argv[2])
reader.verify()
print(time.monotonic() - begun)
"""


class Sampled:
    """A child process and the peak of its RssAnon, in bytes."""

    def __init__(self, *argv: str) -> None:
        env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
        self.child = subprocess.Popen(
            [sys.executable, *argv], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
        )
        self.peak, self.trace = 0, []
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        begun = time.monotonic()
        status = Path(f"/proc/{self.child.pid}/status")
        while self.child.poll() is None:
            try:
                found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
            except OSError:
                return
            if found:
                now = int(found[1]) * 1024
                self.peak = max(self.peak, now)
                self.trace.append((time.monotonic() - begun, now))
            time.sleep(0.01)

    def finish(self) -> str:
        out, _ = self.child.communicate()
        if self.child.returncode:
            raise SystemExit(f"the child failed with {self.child.returncode}\n{out}")
        return out


def copy_seconds(source: Path, target: Path) -> float:
    """Seconds for copying a folder."""
    begun = time.monotonic()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    seconds = time.monotonic() - begun
    shutil.rmtree(target)
    return seconds


def main() -> None:
    """Runs all four."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", nargs="?", help="default: a temporary one")
    parser.add_argument("--tokenizer", help="SentencePiece model of the run")
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "f32"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="lectern-export-"))
    run, out = folder / "run", folder / "hf"
    if not run.exists():
        run.parent.mkdir(parents=True, exist_ok=True)
        Sampled(
            "-c", MAKE, str(run), PRESET, *([options.tokenizer] if options.tokenizer else [])
        ).finish()
        print(f"made {run}")

    flags = ["--max_shard_size=500MB", f"--dtype={options.dtype}"]
    export = Sampled("-m", "model.export", str(run), str(out), *flags)
    print(export.finish().strip())
    report = json.loads((out / "parity.json").read_text())
    promised = 2 * SHARD + 0.7e9
    print(f"verified {report['how']}, against {report['against']}, in {report['seconds']} s")
    print(f"peak RssAnon {export.peak / 1e9:.2f} GB (promised {promised / 1e9:.2f})")

    # One after the other, several times: what else the machine does falls on both.
    to_written, to_checkpoint = [], []
    for _ in range(options.rounds):
        line = Sampled("-c", WRITE, str(run), str(folder / "written"), options.dtype).finish()
        export_s = float(line)
        copy_in = copy_seconds(run / "checkpoints/0/params", folder / "copy")
        copy_out = copy_seconds(folder / "written", folder / "copy")
        shutil.rmtree(folder / "written")
        to_checkpoint.append(copy_in / export_s)
        to_written.append(copy_out / export_s)
        print(
            f"export {export_s:.1f} s; copying the checkpoint's files {copy_in:.1f} s, the written files {copy_out:.1f} s"
        )
    for what, ratios in (("checkpoint's", to_checkpoint), ("written", to_written)):
        print(
            f"speed over that of copying the {what} files, median of {options.rounds}: "
            f"{statistics.median(ratios):.2f} (promised 0.5)"
        )

    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = [Sampled("-c", LOAD, str(out), address, str(i)) for i in range(2)]
    for i, process in enumerate(both):
        line = re.search(r"share (\d+) seconds ([\d.]+)", process.finish())
        share = int(line[1])
        print(
            f"load, process {i} of 2: share {share / 1e9:.2f} GB in {float(line[2]):.1f} s, peak RssAnon "
            f"{process.peak / 1e9:.2f} GB: share + {(process.peak - share) / 1e9:.2f} (promised + 1)"
        )
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
