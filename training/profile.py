"""A profiler trace of a window of steps, in the run directory's `profile/`, for XProf or Perfetto."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
from etils import epath


class ProfileWindow:
    """Records what devices and host do from a window's first step to its last; a context manager.

    A run that begins, or goes on, inside the window records what is left of it, and one that ends
    inside it keeps what it has recorded.

    Args:
      run_dir: `profile/` is made in it; local, or in object storage.
      window: first and last step, both recorded. None: nothing is.
    """

    def __init__(self, run_dir: str, window: tuple[int, int] | None):
        self._folder = epath.Path(run_dir) / "profile"
        self._window = window
        # The profiler writes local files only.
        self._is_remote = "://" in run_dir
        self._local: str | None = None

    def __enter__(self) -> "ProfileWindow":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Call before a step is started."""
        if self._window and self._local is None and self._window[0] <= step <= self._window[1]:
            self._local = tempfile.mkdtemp() if self._is_remote else str(self._folder)
            jax.profiler.start_trace(self._local)

    def after(self, step: int, result: Any) -> None:
        """Call after it, with arrays that the step computes: the last one is waited for."""
        if self._window and self._local is not None and step >= self._window[1]:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._local is None:
            return
        local, self._local = self._local, None
        jax.profiler.stop_trace()
        if self._is_remote:
            for path in [path for path in Path(local).rglob("*") if path.is_file()]:
                copy = self._folder / path.relative_to(local).as_posix()
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
            shutil.rmtree(local)
