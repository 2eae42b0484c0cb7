"""From the start of the process to the end of the first step, for the quickstart's model with a warm compilation cache.

    python tests/benchmarks/startup.py                 # prepares the quickstart's data where it is not there
    python tests/benchmarks/startup.py --imports       # and which imports cost most

Starts train.py on configs/quickstart.yaml several times with the same compilation cache, a new run
directory each, and reads at the end of the first step: wall time, processor time of the process (user and
system, all threads; what a busy machine does not inflate) and train.py's account of the latter. The first
start fills the cache and is shown apart. `--cores 1` keeps it on one core, so that processor time is a
wall time nobody else has a part in.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import json, os, sys, time
import tpu.startup as startup
import training.clock as clock
from tpu.runtime import process_start
said = startup.first_step_line

class Processor(clock.Clock):  # the run's own account, in seconds of the processor
    def __init__(self, *, started=None):
        super().__init__(now=time.process_time, started=0.0)

def stop(seconds, imported):
    print("FIRST " + json.dumps({
        "wall": time.monotonic() - process_start(), "cpu": time.process_time(), "said": said(seconds, imported)
    }), flush=True)
    os._exit(0)

clock.Clock, startup.first_step_line = Processor, stop
import train
sys.argv = ["train.py", *sys.argv[1:]]
sys.exit(train.main())
"""


def main() -> None:
    """Prepares, starts, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--cores", type=int, help="so many cores; default: all")
    parser.add_argument("--data", type=Path, default=ROOT / "runs/quickstart/data")
    parser.add_argument("--imports", action="store_true")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    if given.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    if not (given.data / "biomedicine" / "stream.json").exists():
        command = ["-m", "data.prepare", "configs/quickstart_data.yaml", f"out_dir={given.data}"]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    seq_len = json.loads((given.data / "biomedicine" / "stream.json").read_text())["seq_len"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "configs/quickstart.yaml",
            "prepare=null",
            "export=null",
            f"train.seq_len={seq_len}",
            f"tokenizer={given.data}/tokenizer",
            f"streams.biomedicine.path={given.data}/biomedicine",
            f"streams.instructions.path={given.data}/instructions",
            f"run_dir={folder}/run",
            *given.overrides,
        ]
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(ROOT),
        }
        found = []
        for number in range(given.starts + 1):
            shutil.rmtree(f"{folder}/run", ignore_errors=True)
            found.append(one(arguments, env))
            kind = "warm" if number else "cold"
            print(
                f"{kind}: {found[-1]['wall']:.2f} s wall; in seconds of the processor: {found[-1]['said']}",
                flush=True,
            )
        warm = found[1:]
        print(
            f"warm cache, {given.starts} starts: first step after {min(f['wall'] for f in warm):.2f} s wall (best; median "
            f"{statistics.median(f['wall'] for f in warm):.2f}), {min(f['cpu'] for f in warm):.2f} s processor "
            f"(best; median {statistics.median(f['cpu'] for f in warm):.2f}); load {os.getloadavg()[0]:.1f} on "
            f"{len(os.sched_getaffinity(0))} core(s)"
        )
        if given.imports:
            shutil.rmtree(f"{folder}/run", ignore_errors=True)
            imports(arguments, env)


def one(arguments: list[str], env: dict[str, str]) -> dict[str, float]:
    """One start, to the end of its first step."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], cwd=ROOT, env=env, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIRST ")]
    if not lines:
        sys.exit(done.stdout + done.stderr)
    return json.loads(lines[0].removeprefix("FIRST "))


def imports(arguments: list[str], env: dict[str, str]) -> None:
    """The modules whose own code takes longest, and the packages with all they bring."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", CHILD, *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    own: dict[str, int] = {}
    whole = []
    for line in done.stderr.splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) != 3 or not parts[0].strip().isdigit():
            continue
        name = parts[2].strip()
        own[name.split(".")[0]] = own.get(name.split(".")[0], 0) + int(parts[0])
        whole.append((int(parts[1]), len(parts[2]) - len(parts[2].lstrip()), name))
    print("own time by package, ms:")
    for name, spent in sorted(own.items(), key=lambda item: -item[1])[:25]:
        print(f"  {spent / 1000:7.0f}  {name}")
    print("with what they import, ms:")
    for spent, depth, name in sorted(whole, reverse=True)[:45]:
        print(f"  {spent / 1000:7.0f}  {' ' * depth}{name}")


if __name__ == "__main__":
    main()
