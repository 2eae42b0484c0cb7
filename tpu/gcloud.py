"""Every gcloud command that the launcher gives, and what the answers mean: here and nowhere else.

Each function makes the words of one command; `run` carries words out and `shown` writes them as a line to
paste. docs/launch.md says of each where Google documents it.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from tpu.request import Request

# Nobody answers questions here. A worker that is gone shows within a minute, not after two hours; gcloud itself
# then connects up to ten times, with five seconds between, before it ends with 255.
_CONNECTION = ("-oConnectTimeout=10", "-oServerAliveInterval=15", "-oServerAliveCountMax=4")
_NO_CONNECTION = 255  # ssh's own exit code, which gcloud hands on
_DESCRIBE_SECONDS = 120.0  # for an answer of a second or two


class Lease(Enum):
    """What there is of the machines that were asked for."""

    ABSENT = "absent"
    WAITING = "waiting"  # in the queue, being made, repaired or deleted
    READY = "ready"
    LOST = "lost"  # preempted, or stopped by somebody
    FAILED = "failed"  # the request will never be met


# A state that is not here (a new one) is waited out.
_REQUEST = {
    "ACTIVE": Lease.READY,
    "FAILED": Lease.FAILED,
    "SUSPENDING": Lease.LOST,
    "SUSPENDED": Lease.LOST,
}
_NODE = {
    "READY": Lease.READY,
    "PREEMPTED": Lease.LOST,
    "TERMINATED": Lease.LOST,
    "STOPPED": Lease.LOST,
    "STOPPING": Lease.LOST,
    "DELETING": Lease.LOST,
    "HIDDEN": Lease.LOST,
    "UNKNOWN": Lease.LOST,  # after a repair that failed
}


class GcloudError(RuntimeError):
    """A gcloud command failed for a reason that is not ours to judge: no rights, no network, no quota.

    Attributes:
        reached: it was the command for a worker that failed, on the worker; all of gcloud's own work was done.
    """

    def __init__(self, text: str, *, reached: bool = False) -> None:
        super().__init__(text)
        self.reached = reached


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


# --- the commands -----------------------------------------------------------------------------------------------


def create(request: Request) -> list[str]:
    """Asks for the slices."""
    runtime = request.runtime or request.generation.runtime
    options = [f"--accelerator-type={request.type}"]
    options += ["--spot"] if request.spot else []
    options += [f"--network={request.network}"] if request.network else []
    options += [f"--subnetwork={request.subnetwork}"] if request.subnetwork else []
    options += [f"--service-account={request.service_account}"] if request.service_account else []
    options += ["--internal-ips"] if request.internal else []
    if not request.queued:
        return [
            *_tpus("tpu-vm", "create", request.name, request),
            f"--version={runtime}",
            *options,
        ]
    nodes = (
        [f"--node-id={request.name}"]
        if request.slices == 1
        else [f"--node-count={request.slices}", f"--node-prefix={request.name}"]
    )
    return [
        *_tpus("queued-resources", "create", request.name, request),
        *nodes,
        f"--runtime-version={runtime}",
        *options,
    ]


def describe(request: Request) -> list[str]:
    """What became of a queued request, as JSON."""
    return [*_tpus("queued-resources", "describe", request.name, request), "--format=json"]


def describe_node(request: Request, node: str) -> list[str]:
    """State and hosts of one TPU VM, as JSON."""
    return [*_tpus("tpu-vm", "describe", node, request), "--format=json"]


def delete(request: Request) -> list[str]:
    """Gives the slices back: the nodes of a queued request and the request itself."""
    if request.queued:
        return [*_tpus("queued-resources", "delete", request.name, request), "--force", "--quiet"]
    return [*_tpus("tpu-vm", "delete", request.name, request), "--quiet"]


def copy(request: Request, node: str, source: str, target: str) -> list[str]:
    """Puts a file into the home folder of every worker of a node."""
    words = ["gcloud", "compute", "tpus", "tpu-vm", "scp", source, f"{node}:{target}"]
    return [*words, *request.where, "--worker=all", *_connection(request, "scp")]


def ssh(request: Request, node: str, worker: int | str, command: str) -> list[str]:
    """Runs a command on one worker of a node, or on all of them at once ("all")."""
    return [
        *_tpus("tpu-vm", "ssh", node, request),
        f"--worker={worker}",
        *_connection(request, "ssh"),
        f"--command={command}",
    ]


def _connection(request: Request, program: str) -> list[str]:
    inside = ["--internal-ip"] if request.internal else []
    return ["--quiet", *(f"--{program}-flag={flag}" for flag in _CONNECTION), *inside]


def _tpus(group: str, verb: str, name: str, request: Request) -> list[str]:
    return ["gcloud", "compute", "tpus", group, verb, name, *request.where]


# --- carrying them out ------------------------------------------------------------------------------------------


def shown(words: Sequence[str]) -> str:
    """A command as a line that a shell reads back."""
    return shlex.join(words)


def run(words: Sequence[str], *, timeout: float | None = None) -> Done:
    """Carries a command out.

    Raises:
        GcloudError: gcloud is not installed, or did not end in time.
    """
    try:
        done = subprocess.run(
            list(words),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise GcloudError(
            "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise GcloudError(f"no end after {timeout:.0f} s: {shown(words)}") from error
    return Done(done.returncode, done.stdout, done.stderr)


def must(words: Sequence[str]) -> str:
    """What a command prints.

    Raises:
        GcloudError: it failed; with gcloud's own words.
    """
    done = run(words)
    if done.code:
        # gcloud says "ERROR: (gcloud.compute...)" of itself and hands on a worker's exit code without a word.
        reached = done.code != _NO_CONNECTION and "ERROR: (gcloud." not in done.err
        text = f"{shown(words)}\nended with {done.code}: {done.err.strip()}"
        raise GcloudError(text, reached=reached)
    return done.out


@dataclass(frozen=True)
class Seen:
    """The lease at one moment.

    Attributes:
        hosts: of each node, when all are ready.
        why: what gcloud says of a request that failed or was taken back.
    """

    lease: Lease
    hosts: tuple[int, ...] = ()
    why: str = ""


def look(request: Request) -> Seen:
    """The present state of what was asked for.

    Raises:
        GcloudError: gcloud could not say.
    """
    if request.queued:
        answer = _asked(describe(request))
        if answer is None:
            return Seen(Lease.ABSENT)
        state = answer.get("state", {})
        lease = _REQUEST.get(state.get("state", ""), Lease.WAITING)
        if lease is not Lease.READY:
            details = {key: value for key, value in state.items() if value}
            return Seen(lease, why=json.dumps(details, sort_keys=True))
    nodes = [_asked(describe_node(request, node)) for node in request.nodes]
    if any(node is None for node in nodes):
        # The queued resource says ACTIVE, so a node that is not there was taken away.
        return Seen(Lease.LOST, why="a node is gone") if request.queued else Seen(Lease.ABSENT)
    found = [node for node in nodes if node is not None]
    leases = [_NODE.get(node.get("state", ""), Lease.WAITING) for node in found]
    why = ", ".join(str(node.get("state")) for node in found)
    for worst in (Lease.LOST, Lease.WAITING):
        if worst in leases:
            return Seen(worst, why=why)
    return Seen(Lease.READY, tuple(len(node.get("networkEndpoints", [0])) for node in found))


def _asked(words: Sequence[str]) -> dict | None:
    """The JSON that a describe command gives; None when there is no such thing."""
    done = run(words, timeout=_DESCRIBE_SECONDS)
    if done.code and re.search(r"NOT_FOUND|not found|was not found", done.err):
        return None
    if done.code:
        raise GcloudError(f"{shown(words)}\nended with {done.code}: {done.err.strip()}")
    try:
        return json.loads(done.out)
    except ValueError as error:
        raise GcloudError(f"{shown(words)}\nis not JSON: {done.out[:200]!r}") from error
