"""Which slices are asked for: their name, place and kind, and what Google's names for kinds mean."""

import re
from dataclasses import dataclass


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

    @property
    def where(self) -> list[str]:
        """Project and zone, as every command takes them."""
        project = [f"--project={self.project}"] if self.project else []
        return [*project, f"--zone={self.zone}"]
