"""The U-Net as a graph whose layers, norms and attention are chosen by the caller and whose time path is a table."""

from s2p_converters.core.graph.denoiser import DENOISERS, Denoiser, denoiser_of
from s2p_converters.core.graph.operators import FloatLayer, GraphOperators, LayerSpec, Operators, StepRow
from s2p_converters.core.graph.step_unet import StepUNet, split_shortcuts
from s2p_converters.core.graph.structure import UNetStructure, layer_specs, prompt_columns, resnet_names
from s2p_converters.core.graph.tables import CutRow, GivenRows, NetworkRows, PromptRows, StepTables
from s2p_converters.core.graph.time_network import TimeNetwork, empty_network

__all__ = [
    "DENOISERS",
    "CutRow",
    "Denoiser",
    "FloatLayer",
    "GivenRows",
    "GraphOperators",
    "LayerSpec",
    "NetworkRows",
    "Operators",
    "PromptRows",
    "StepRow",
    "StepTables",
    "StepUNet",
    "TimeNetwork",
    "UNetStructure",
    "denoiser_of",
    "empty_network",
    "layer_specs",
    "prompt_columns",
    "resnet_names",
    "split_shortcuts",
]
