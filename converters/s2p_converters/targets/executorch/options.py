"""What the ExecuTorch target can be asked for."""

from __future__ import annotations

from pydantic import Field, model_validator

from s2p_converters.targets.executorch.delegates import DELEGATES
from s2p_converters.targets.executorch.xnnpack.scheme import Scheme
from s2p_converters.targets.options import TargetOptions
from s2p_runtime.errors import S2PError


class ExecuTorchOptions(TargetOptions):
    """Options of the ExecuTorch target. ``scheme`` and ``self_check`` are for experiments: golden runs are those of ``pinned``."""

    backend: str = Field(
        "xnnpack",
        description="what runs the programs; only xnnpack computes with integers",
        json_schema_extra={"choices": list(DELEGATES)},
    )
    scheme: Scheme = Field(
        "pinned", title="activation scheme", description="how activations become int8", json_schema_extra={"hidden": True}
    )
    self_check: bool = Field(
        True, description="run every integer layer alone against plain arithmetic", json_schema_extra={"hidden": True}
    )

    @model_validator(mode="after")
    def _go_together(self) -> ExecuTorchOptions:
        shares = DELEGATES[self.backend].shares_weights
        able = " or ".join(name for name, delegate in DELEGATES.items() if delegate.shares_weights)
        if self.size and not shares:
            raise S2PError(f"`size` needs `backend={able}`", f"{self.backend} keeps the weights of every size apart", "size")
        if self.chunks != 1 and self.size:
            raise S2PError("`chunks` splits the U-Net for one size", "leave `size` or `chunks` out", "chunks")
        if self.chunks != 1 and not shares:
            raise S2PError(f"`chunks` needs `backend={able}`", f"{self.backend} takes the U-Net whole", "chunks")
        return self
