"""Backends that take float components through ExecuTorch's own partitioners."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_converters.targets.executorch.protocol import Partitioned
from s2p_runtime.component import Component

if TYPE_CHECKING:
    from s2p_converters.targets.executorch.options import ExecuTorchOptions
    from s2p_converters.targets.float_components import FloatComponent


class PartitionedDelegate(Partitioned):
    """Writes them as programs of the target's own form."""

    def lower(self, options: ExecuTorchOptions, folder: Path, methods: Mapping[str, FloatComponent]) -> Component:
        """See :class:`Delegate`."""
        from s2p_converters.targets.executorch.programs import convert_float

        return convert_float(self, folder, methods)
