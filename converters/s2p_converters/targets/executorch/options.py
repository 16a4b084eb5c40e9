"""What the ExecuTorch target can be asked for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from s2p_converters.targets.executorch.delegates import DELEGATES
from s2p_converters.targets.executorch.xnnpack.scheme import Scheme
from s2p_converters.targets.options import TargetOptions
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.qnn.socs import SOCS, soc_named

QNN = "qnn"
DEFAULT_SOC = "SM8650"


class ExecuTorchOptions(TargetOptions):
    """Options of the ExecuTorch target. ``scheme`` and ``self_check`` are for experiments: golden runs are those of ``pinned``."""

    backend: str = Field(
        "xnnpack",
        description="what runs the programs; only xnnpack computes with integers",
        json_schema_extra={"choices": list(DELEGATES)},
    )
    soc: tuple[str, ...] = Field(
        (),
        title="SoC",
        description=f"chips that qnn compiles for, separated by commas: {', '.join(SOCS)}; {DEFAULT_SOC} without it",
        json_schema_extra={"metavar": "NAME"},
    )
    activations: Literal["uint16", "uint8"] = Field(
        "uint16",
        description="inputs and outputs of qnn's integer layers; uint8 rounds inputs as the checkpoint does, call by call",
    )
    runtime: Literal["executorch", "onnxruntime"] = Field(
        "executorch", description="onnxruntime: beside the .pte what apps on ONNX Runtime load (qnn)"
    )
    scheme: Scheme = Field(
        "pinned",
        title="activation scheme",
        description="how activations become int8",
        json_schema_extra={"hidden": True, "unet_only": True},
    )
    self_check: bool = Field(
        True,
        description="run every integer layer alone against plain arithmetic",
        json_schema_extra={"hidden": True, "unet_only": True},
    )

    @field_validator("soc", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Words like ``SM8650,SM8750``, one or several; each chip once."""
        several = [value] if isinstance(value, str) else value
        if not isinstance(several, list | tuple):
            return value
        names = [name.strip() for each in several for name in str(each).split(",")]
        return tuple(soc_named(name).name for name in dict.fromkeys(names))

    @property
    def socs(self) -> tuple[str, ...]:
        """Chips to compile for; none where the backend compiles for none."""
        return (self.soc or (DEFAULT_SOC,)) if self.backend == QNN else ()

    @model_validator(mode="after")
    def _go_together(self) -> ExecuTorchOptions:
        for name in ("soc", "activations", "runtime"):
            if self.backend != QNN and getattr(self, name) != type(self).model_fields[name].default:
                raise S2PError(f"`{name}` needs `backend={QNN}`", f"leave it out for {self.backend}", name)
        if self.size and not DELEGATES[self.backend].sizes:
            able = " or ".join(name for name, delegate in DELEGATES.items() if delegate.sizes)
            raise S2PError(f"`size` needs `backend={able}`", f"{self.backend} keeps the weights of every size apart", "size")
        if self.chunks != 1 and self.size:
            raise S2PError("`chunks` splits the U-Net for one size", "leave `size` or `chunks` out", "chunks")
        if self.chunks != 1 and not DELEGATES[self.backend].chunks:
            able = " or ".join(name for name, delegate in DELEGATES.items() if delegate.chunks)
            raise S2PError(f"`chunks` needs `backend={able}`", f"{self.backend} takes the U-Net whole", "chunks")
        return self
