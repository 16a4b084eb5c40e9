"""The U-Net as a graph whose layers, norms and attention are chosen by the caller and whose time path is a table."""

from s2p_converters.unet.graph import StepUNet
from s2p_converters.unet.operators import LayerSpec, Operators, StepRow
from s2p_converters.unet.structure import UNetStructure, layer_specs, resnet_names
from s2p_converters.unet.tables import PromptTables, StepTables
from s2p_converters.unet.time_network import TimeNetwork

__all__ = [
    "LayerSpec",
    "Operators",
    "PromptTables",
    "StepRow",
    "StepTables",
    "StepUNet",
    "TimeNetwork",
    "UNetStructure",
    "layer_specs",
    "resnet_names",
]
