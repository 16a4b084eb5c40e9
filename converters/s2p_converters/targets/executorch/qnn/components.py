"""Components that stay in float, as ONNX models: torch's own exporter writes them, and the chip computes them in float16."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import TimeNetwork
from s2p_converters.targets.float_components import FloatComponent
from s2p_converters.targets.ports import example
from s2p_runtime.errors import S2PError
from s2p_runtime.quiet import quiet_import

_OPSET = 17
LARGEST_ID = 2048
"""Largest of the time ids that the chip is told apart from its neighbours: float16 has all whole numbers up to here."""


class LookedUpIds(nn.Module):
    """A :class:`TimeNetwork` that looks the sinusoids of its time ids up. The angles go up to the ids themselves, and float16,
    which the chip computes in, does not know them to a radian there."""

    table: Tensor

    def __init__(self, network: TimeNetwork) -> None:
        super().__init__()
        self.network = network
        angles = torch.arange(LARGEST_ID + 1, dtype=torch.float64)[:, None] * network.frequencies.double()
        pair = (torch.cos(angles), torch.sin(angles)) if network.flip else (torch.sin(angles), torch.cos(angles))
        self.register_buffer("table", torch.cat(pair, dim=1).float())

    def forward(self, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """As :meth:`TimeNetwork.forward`, of whole ids up to :data:`LARGEST_ID`."""
        network, ids = self.network, time_ids.to(torch.int32)
        sinusoids = self.table[ids].reshape(ids.shape[0], -1)
        added = network.add_embedding(torch.cat([pooled, sinusoids], dim=1))
        hidden = torch.nn.functional.silu(network.embeddings + added[:, None, :])
        table: Tensor = network.projection(hidden) + network.rows
        return table


def write_float(path: Path, component: FloatComponent) -> None:
    """Write a float component as an ONNX model.

    Raises:
        S2PError: torch cannot write it.
    """
    module = component.load()
    if isinstance(module, TimeNetwork):
        module = LookedUpIds(module)
    try:
        with quiet_import(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.float().eval(), tuple(map(example, component.inputs)), str(path),
                input_names=[port.name for port in component.inputs], output_names=[port.name for port in component.outputs],
                opset_version=_OPSET, dynamo=False,
            )  # fmt: skip
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise S2PError(
            f"the {component.title} cannot be written as ONNX ({reason})", "use `backend=xnnpack`", "backend"
        ) from error
