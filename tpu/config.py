"""What a recipe may say about the machine: the mesh."""

from pydantic import BaseModel, ConfigDict, Field


class MeshConfig(BaseModel):
    """Axes of the device mesh. `fsdp: -1` takes all devices that the others leave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slices: int = Field(default=1, ge=1, description="TPU slices joined by the data-centre network")
    data: int = Field(default=1, ge=1, description="copies of the weights inside a slice")
    fsdp: int = Field(
        default=-1, ge=-1, description="ways the weights and optimizer state are split"
    )
    tensor: int = Field(default=1, ge=1, description="ways heads, mlp and vocabulary are split")
    sequence: int = Field(default=1, ge=1, description="ways a row's tokens are split")
    fsdp_axes: tuple[int, int] | None = Field(
        default=None, description="fsdp as two mesh axes; default: along the torus of the slice"
    )
    chip_hour_price: float | None = Field(
        default=None, ge=0, description="what a chip costs an hour, for the plan's cost of the run"
    )
