"""Start-up of a process among many, and the warning that it will be taken away."""

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import jax

PREEMPTED = 75  # exit code of a run that saved itself because it was told to go (EX_TEMPFAIL)

# Dense bfloat16 FLOP/s of one JAX device, from the makers' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def start() -> None:
    """Joins this process to the others, where there are others; call before anything touches a device.

    On a TPU pod slice JAX finds them itself, when somebody says that there are others: `tpu.launch`
    (LECTERN_PROCESSES), GKE (TPU_WORKER_HOSTNAMES), or the machine's own metadata. Elsewhere
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say who they are.
    """
    _order_cpu_collectives()
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address:
        missing = [n for n in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID") if n not in os.environ]
        if missing:
            raise ValueError(f"JAX_COORDINATOR_ADDRESS is set but {' and '.join(missing)} is not")
        jax.distributed.initialize(
            address, int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"])
        )
    elif int(os.environ.get("LECTERN_PROCESSES", "1")) > 1 or _has_neighbours():
        jax.distributed.initialize()


def process_start() -> float:
    """When this process began, as a reading of time.monotonic(): before it imported anything."""
    import psutil

    return time.monotonic() - (time.time() - psutil.Process().create_time())


def use_compilation_cache(run_dir: str) -> str | None:
    """Keeps what is compiled, so that a start after the first one compiles nothing; gives the place.

    A run on several hosts or on object storage keeps it in its own directory, `compiled/`, where machines
    that replace lost ones find it; any other in the user's cache folder, where the next run finds it too.
    JAX_COMPILATION_CACHE_DIR names another place, JAX_ENABLE_COMPILATION_CACHE=false switches it off.
    """
    if not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    if given := jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return given
    remote = "://" in run_dir
    if remote or jax.process_count() > 1:
        place = f"{run_dir.rstrip('/')}/compiled"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        place = str(Path(base) / "lectern" / "compiled")
        _forget_oldest(Path(place))
    jax.config.update("jax_compilation_cache_dir", place)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # A file on object storage takes as long as a small compilation.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5 if remote else 0.0)
    return place


def is_main() -> bool:
    """Whether this is the process that prints and writes logs."""
    return jax.process_index() == 0


def peak_flops(device: Any) -> float | None:
    """Dense bfloat16 FLOP/s of a device; None where no data sheet speaks of it (a CPU)."""
    kinds = sorted(PEAK_FLOPS, key=len, reverse=True)
    return next((PEAK_FLOPS[k] for k in kinds if device.device_kind.startswith(k)), None)


class Preemption:
    """Turns SIGTERM into a question that the training loop asks at every step.

    With several processes the question is put to JAX's preemption service, so that all of them hear
    the same answer at the same step; alone, a signal handler answers it.
    """

    def __init__(self) -> None:
        self._told = False
        self._several = jax.process_count() > 1
        if not self._several:
            self._before = signal.signal(signal.SIGTERM, self._tell)

    def reached(self, step: int) -> bool:
        """Whether to save and go; every process calls it at every step."""
        if self._several:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self._told

    def close(self) -> None:
        """Gives SIGTERM back its old meaning."""
        if not self._several:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told = True


def _order_cpu_collectives() -> None:
    """Keeps several CPU devices from running independent collectives in different orders.

    With its default scheduler jaxlib 0.10.2 does that, and Gloo ends the process ("Received data size
    doesn't match expected size").
    """
    flags = os.environ.get("XLA_FLAGS", "")
    several = "JAX_NUM_PROCESSES" in os.environ or "host_platform_device_count" in flags
    name = "--xla_cpu_enable_concurrency_optimized_scheduler"
    if os.environ.get("JAX_PLATFORMS") == "cpu" and several and name not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {name}=false".strip()


def _has_neighbours() -> bool:
    """Whether this TPU VM is one of several, by its environment or by its metadata."""
    if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        return True
    if "MEGASCALE_COORDINATOR_ADDRESS" in os.environ:
        return True
    asked = "TPU_SKIP_MDS_QUERY" not in os.environ and os.environ.get("JAX_PLATFORMS") != "cpu"
    if not asked or not any(Path(p).exists() for p in ("/dev/accel0", "/dev/vfio/0")):
        return False
    return "," in _metadata("worker-network-endpoints")


def _metadata(name: str) -> str:
    """An attribute of a Google Cloud machine; empty where there is none."""
    import urllib.error
    import urllib.request

    place = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
    request = urllib.request.Request(place + name, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return ""


def _forget_oldest(place: Path, most_bytes: int = 4 * 2**30) -> None:
    """Keeps the newest entries of a local cache, up to so many bytes."""
    entries = []
    for path in place.glob("*-cache"):
        try:
            found = path.stat()
        except FileNotFoundError:  # another run was faster
            continue
        entries.append((found.st_mtime, found.st_size, path))
    held = 0
    for _, size, path in sorted(entries, key=lambda entry: -entry[0]):
        held += size
        if held > most_bytes:
            path.unlink(missing_ok=True)
