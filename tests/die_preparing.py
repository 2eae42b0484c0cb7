"""Runs `data.prepare` and dies at a stated file: `python tests/die_preparing.py WHEN:GLOB RECIPE`.

WHEN is `before` or `after`: right before or after the first file whose path matches is put in place. The
signal is SIGKILL and reaches this very process, so the moment is the moment, whatever the machine does.
"""

import os
import signal
import sys
from fnmatch import fnmatch
from pathlib import Path


def die_at_file(when: str, pattern: str) -> None:
    """Kills this process at the file."""
    from data import rows

    put_in_place = rows.whole_file.__exit__

    def put(self, *error):
        hit = fnmatch(str(self._path), pattern)
        if not (hit and when == "before"):
            put_in_place(self, *error)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)

    rows.whole_file.__exit__ = put


def main() -> None:
    moment, recipe = sys.argv[1:]
    die_at_file(*moment.split(":", 1))
    from data import prepare

    prepare.main([recipe])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
