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

# Nobody answers questions here; a worker that is gone shows within a minute, not after two hours.
_SSH = ("--quiet", "--ssh-flag=-oServerAliveInterval=15", "--ssh-flag=-oServerAliveCountMax=4")


@dataclass(frozen=True)
class Generation:
    """What a TPU generation's names mean.

    Attributes:
        runtime: the TPU software version for JAX.
        per_chip: how much a chip adds to the number in an accelerator type: TensorCores or chips.
        single_host: chips of the largest slice that one host holds; larger ones have 4 chips a host.
    """

    runtime: str
    per_chip: int
    single_host: int


GENERATIONS = {
    "v4": Generation("tpu-ubuntu2204-base", 2, 4),
    "v5litepod": Generation("v2-alpha-tpuv5-lite", 1, 8),
    "v5p": Generation("v2-alpha-tpuv5", 2, 4),
    "v6e": Generation("v2-alpha-tpuv6e", 1, 8),
}


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
}


class GcloudError(RuntimeError):
    """A gcloud command failed for a reason that is not ours to judge: no rights, no network, no quota.

    Attributes:
        code: its exit code, where it had one.
    """

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Request:
    """The slices asked for: their name, place and kind.

    Attributes:
        name: of the queued resource and of its node; with several slices the nodes are NAME-0, NAME-1, ...
        type: accelerator type, such as v5litepod-16.
        queued: through a queued resource; else a TPU VM made at once or not at all.
        network, subnetwork: None takes the project's default.
        internal: the workers have no public address, and are reached from inside the network.
    """

    name: str
    zone: str
    type: str
    slices: int = 1
    project: str | None = None
    spot: bool = False
    queued: bool = True
    runtime: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    service_account: str | None = None
    internal: bool = False

    def __post_init__(self) -> None:
        """Refuses what gcloud would refuse only after some time, or silently take for something else."""
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?", self.name):
            raise ValueError(
                f"--name: {self.name!r} is no name for a TPU; take small letters, digits and -, "
                "beginning with a letter"
            )
        if self.slices < 1:
            raise ValueError(f"--slices: {self.slices} is less than 1")
        if self.slices > 1 and not self.queued:
            raise ValueError(
                "--slices: several slices come from a queued resource; leave out --direct"
            )
        _ = self.chips

    @property
    def generation(self) -> Generation:
        """The table's entry for this type."""
        known = GENERATIONS.get(self.type.rpartition("-")[0])
        if known is None or not self.type.rpartition("-")[2].isdigit():
            kinds = ", ".join(f"{name}-N" for name in GENERATIONS)
            raise ValueError(
                f"--type: {self.type!r} is no accelerator type that is known here: {kinds}; "
                "gcloud compute tpus accelerator-types list --zone=ZONE shows a zone's"
            )
        return known

    @property
    def chips(self) -> int:
        """Chips of one slice."""
        count, per_chip = int(self.type.rpartition("-")[2]), self.generation.per_chip
        if count < 1 or count % per_chip:
            raise ValueError(
                f"--type: {self.type}: the number counts TensorCores, {per_chip} a chip"
            )
        return count // per_chip

    @property
    def hosts(self) -> int:
        """Hosts of one slice, by the table; `describe_node` tells what there really are."""
        return 1 if self.chips <= self.generation.single_host else -(-self.chips // 4)

    @property
    def nodes(self) -> list[str]:
        """The TPU VMs' names, one a slice."""
        if self.slices == 1:
            return [self.name]
        return [f"{self.name}-{index}" for index in range(self.slices)]

    def _where(self) -> list[str]:
        project = [f"--project={self.project}"] if self.project else []
        return [*project, f"--zone={self.zone}"]


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
    inside = ["--internal-ip"] if request.internal else []
    return [*words, *request._where(), "--worker=all", "--quiet", *inside]


def ssh(request: Request, node: str, worker: int | str, command: str) -> list[str]:
    """Runs a command on one worker of a node, or on all of them at once ("all")."""
    inside = ["--internal-ip"] if request.internal else []
    return [
        *_tpus("tpu-vm", "ssh", node, request),
        f"--worker={worker}",
        *_SSH,
        *inside,
        f"--command={command}",
    ]


def _tpus(group: str, verb: str, name: str, request: Request) -> list[str]:
    return ["gcloud", "compute", "tpus", group, verb, name, *request._where()]


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
        text = f"{shown(words)}\nended with {done.code}: {done.err.strip()}"
        raise GcloudError(text, done.code)
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
    done = run(words)
    if done.code and re.search(r"NOT_FOUND|not found|was not found", done.err):
        return None
    if done.code:
        raise GcloudError(f"{shown(words)}\nended with {done.code}: {done.err.strip()}")
    try:
        return json.loads(done.out)
    except ValueError as error:
        raise GcloudError(f"{shown(words)}\nis not JSON: {done.out[:200]!r}") from error
