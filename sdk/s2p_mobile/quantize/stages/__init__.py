"""What a method is going to do, said before it is done: its stages, their U-Net passes, and the other work that they count."""

from s2p_mobile.quantize.stages.counting import Counted, LayerWork, count_network
from s2p_mobile.quantize.stages.memory import Memory
from s2p_mobile.quantize.stages.stage import Network, Passes, Piece, Stage, on_host

__all__ = ["Counted", "LayerWork", "Memory", "Network", "Passes", "Piece", "Stage", "count_network", "on_host"]
