"""Every delegate by name."""

from __future__ import annotations

from s2p_converters.targets.executorch.protocol import Delegate
from s2p_converters.targets.executorch.qnn.delegate import Qnn
from s2p_converters.targets.executorch.stock import StockCoreAI, StockCoreML, StockVulkan
from s2p_converters.targets.executorch.xnnpack.delegate import Xnnpack

DELEGATES: dict[str, Delegate] = {
    delegate.name: delegate for delegate in (Xnnpack(), Qnn(), StockCoreML(), StockCoreAI(), StockVulkan())
}
