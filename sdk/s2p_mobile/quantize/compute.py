"""How a job's networks lie in memory and compute: the part of a run that a device decides, and not its user.

Precisions are those of products: sums, norms and everything that is learned stay in float32. A plan changes roundings and nothing
else, so a run that goes on keeps the plan that it began with, unless another is asked for.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from s2p_converters.core.graph import FloatLayer, StepUNet
from s2p_mobile.quantize.stages.stage import Precision
from s2p_runtime.contract import Contract

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


class ComputePlan(Contract):
    """A way to compute. The defaults are the most exact one."""

    device: Literal["cpu", "cuda", "mps"] = Field(
        default="cpu", description="that it is for; of these only cuda has memory of its own"
    )
    graph: Precision = Field(
        default="fp32",
        description="of FP networks that only run: trajectories, ranking, calibration; on a processor of their weights alone",
    )
    training: Precision = Field(default="fp32", description="of products in training and reconstruction")
    moments: Literal["fp32", "bf16"] = Field(default="fp32", description="of Adam's moments and of averages")
    pairs: int | None = Field(
        default=None, ge=1, description="(prompt, call) pairs that train at a time; null: the recipe's batch"
    )
    recompute: bool = Field(default=False, description="blocks run again in the backward pass")
    samples: int = Field(default=16, ge=1, description="that go forward at a time where nothing is learned")
    waiting: int = Field(
        default=4 << 30,
        ge=0,
        description="bytes of memory in which a reconstruction's samples wait; those beyond lie on the disk",
    )

    @property
    def graph_products(self) -> Precision:
        """Of products in the FP network. A processor multiplies in float32: without instructions for bfloat16, a convolution in it
        takes two hundred times as long."""
        return "fp32" if self.device == "cpu" else self.graph

    @property
    def graph_dtype(self) -> torch.dtype:
        """Of states in the FP network."""
        return DTYPES[self.graph_products]

    @property
    def waiting_dtype(self) -> torch.dtype:
        """Of states of the FP network that wait."""
        return DTYPES[self.graph]

    def place(self, network: StepUNet, device: torch.device) -> StepUNet:
        """An FP network on its device. Where only its weights are narrow, they are copies, each widened when it is used."""
        if self.graph_products != self.graph:
            for layer in network.modules():
                if isinstance(layer, FloatLayer):
                    layer.weight = nn.Parameter(layer.weight.to(DTYPES[self.graph]), requires_grad=False)
        return network.to(device, self.graph_dtype) if self.graph_products == self.graph else network.to(device)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Products in a precision; nothing changes for float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision], cache_enabled=False)
