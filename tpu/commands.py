"""The commands of one launch, in the order of their use; `dry_run` shows them all.

`tpu.gcloud` has the words of a gcloud command; here stands what is copied, installed and started on the workers.
"""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tpu import gcloud
from tpu.request import Request

GRACE = 60.0  # seconds for a process to go when it is told to
_CODE = "lectern"  # in the home folder of every worker
_VENV = "lectern-venv"


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        command: words, Python's path left out: `train.py RECIPE ...`.
        run_dir: where its checkpoints are.
        commit: the code; None is the working tree.
        env: names of variables whose values the workers get.
    """

    command: tuple[str, ...]
    run_dir: str
    commit: str | None = None
    env: tuple[str, ...] = ()


@dataclass(frozen=True)
class Commands:
    """The commands that carry a job to the workers of a request.

    Attributes:
        folder: on this machine, for what is copied and for the workers' output.
    """

    request: Request
    job: Job
    folder: Path

    @property
    def bundle(self) -> Path:
        """The code, on this machine."""
        return self.folder / "code.tgz"

    @property
    def secrets(self) -> Path:
        """The variables for the workers, on this machine."""
        return self.folder / "env"

    def copies(self, node: str) -> Iterator[list[str]]:
        """Puts code and variables on all workers of a node."""
        yield gcloud.copy(self.request, node, str(self.bundle), f"{_CODE}.tgz")
        if self.job.env:
            yield gcloud.copy(self.request, node, str(self.secrets), f"{_CODE}.env")

    def install(self, node: str) -> list[str]:
        """Unpacks, without what an earlier copy left, and installs; on all workers of a node."""
        steps = [
            f"mkdir -p {_CODE}",
            f"cd {_CODE}",
            "{ [ ! -f .files ] || xargs -d '\\n' rm -f < .files; }",
            f"tar -xzf ../{_CODE}.tgz",
            f"bash tpu/setup.sh ../{_VENV}",
        ]
        return gcloud.ssh(self.request, node, "all", " && ".join(steps))

    def status(self, node: str, worker: int) -> list[str]:
        """Asks what runs on one worker."""
        return self._worker(node, worker, "status")

    def newest(self) -> list[str]:
        """Asks the first worker for the newest checkpoint's step."""
        return self._worker(self.request.nodes[0], 0, "newest", self.job.run_dir)

    def start(self, node: str, worker: int, run_id: str, hosts: int) -> list[str]:
        """Starts the command on one worker; it learns how many there should be."""
        env = [
            f"--env=LECTERN_PROCESSES={hosts}",
            f"--env=LECTERN_DEVICES={self.request.chips * self.request.slices}",
            *([f"--env-file=../{_CODE}.env"] if self.job.env else []),
        ]
        command = [f"../{_VENV}/bin/python", *self.job.command]
        return self._worker(node, worker, "start", f"--id={run_id}", *env, "--", *command)

    def follow(self, node: str, worker: int, run_id: str, begin: int) -> list[str]:
        """Prints the command's output from a byte on, then how it ended."""
        return self._worker(node, worker, "follow", f"--id={run_id}", f"--from={begin}")

    def stop(self, node: str, worker: int) -> list[str]:
        """Ends whatever runs on one worker."""
        return self._worker(node, worker, "stop", f"--grace={GRACE:.0f}")

    def _worker(self, node: str, worker: int, *words: str) -> list[str]:
        """`tpu.worker` on one worker, in place of the shell that ssh starts."""
        line = shlex.join([f"../{_VENV}/bin/python", "-m", "tpu.worker", *words])
        return gcloud.ssh(self.request, node, worker, f"cd {_CODE} && exec {line}")


def dry_run(commands: Commands) -> list[str]:
    """Every command of a launch in order, with remarks between them; hosts as the table has them."""
    request, job = commands.request, commands.job
    workers = [(node, worker) for node in request.nodes for worker in range(request.hosts)]
    run_id = f"{request.name}.1"
    packed = [sys.executable, "-m", "tpu.bundle", str(commands.bundle)]
    stages: list[tuple[str, list[list[str]]]] = [
        ("the code", [[*packed, *([job.commit] if job.commit else [])]]),
        (
            "ask for the machines, unless they are there; then look until they are ready",
            [
                gcloud.create(request),
                *([gcloud.describe(request)] if request.queued else []),
                *(gcloud.describe_node(request, node) for node in request.nodes),
            ],
        ),
        ("does a run go on there already?", [commands.status(*worker) for worker in workers]),
        (
            "copy and install",
            [
                words
                for node in request.nodes
                for words in (*commands.copies(node), commands.install(node))
            ],
        ),
        (
            "nothing may be left running; the newest checkpoint; before every start",
            [*(commands.stop(*worker) for worker in workers), commands.newest()],
        ),
        (
            "start, then follow",
            [
                *(commands.start(*worker, run_id, len(workers)) for worker in workers),
                *(commands.follow(*worker, run_id, 0) for worker in workers),
            ],
        ),
        (
            "when one of them ended with an error, for the others; then from the newest checkpoint on",
            [commands.stop(*worker) for worker in workers],
        ),
        (
            "when machines are lost, before asking for others, and at the end",
            [gcloud.delete(request)],
        ),
    ]
    lines = [
        f"# {request.slices} x {request.type}: {request.chips} chips, {request.hosts} host(s) each"
    ]
    for remark, wanted in stages:
        lines += [f"# {remark}", *(gcloud.shown(words) for words in wanted)]
    return lines
