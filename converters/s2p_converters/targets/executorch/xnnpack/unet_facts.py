"""What the U-Net's .pte files of a bundle hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from s2p_converters.targets.executorch.xnnpack.inspection import read_program
from s2p_converters.targets.protocol import Inspection
from s2p_runtime.bundle import Bundle
from s2p_runtime.errors import S2PError


@dataclass(frozen=True)
class UNetFacts:
    """Read from the programs and not from the manifest.

    Attributes:
        delegates: backend of each delegate, in order.
        operators: portable operators outside of them.
        nodes: convolution and fully connected nodes of layers by the XNNPACK datatypes of input, filter and output, e.g.
            ``"qdint8 x qcint4 -> fp32"``. A layer may be several nodes.
        arithmetic: such nodes that are no layers (norms written as small matrices).
        integer_layers, float_layers: names, in the order in which they run.
    """

    delegates: tuple[str, ...]
    operators: tuple[str, ...]
    nodes: dict[str, int]
    arithmetic: int
    integer_layers: tuple[str, ...]
    float_layers: tuple[str, ...]


def inspect_unet(bundle: Bundle) -> Inspection:
    """The same for ``inspect``.

    Raises:
        S2PError: see :func:`read_unet_facts`.
    """
    found = read_unet_facts(bundle)
    outside = f", outside of them {', '.join(found.operators)}" if found.operators else ""
    facts = {
        "delegates": f"{len(found.delegates)} ({', '.join(dict.fromkeys(found.delegates))}){outside}",
        "nodes": ", ".join(f"{count} {datatypes}" for datatypes, count in found.nodes.items()),
        "kernels": f"{len(found.integer_layers)} layers integer, {len(found.float_layers)} float",
    }
    return Inspection(facts, {"unet_program": asdict(found)})


def read_unet_facts(bundle: Bundle) -> UNetFacts:
    """Take the U-Net of a bundle apart.

    Raises:
        S2PError: the file is no program of layers as the manifest lists them.
    """
    names = [layer.name for layer in bundle.manifest.quantization.layers]
    summaries = []
    for component in bundle.manifest.unet_programs:
        path = bundle.component(component)[1]
        summaries.append(read_program(path.read_bytes()))
        if any(node.place > len(names) for node in summaries[-1].layers):
            raise S2PError(
                f"{path.name} has more layers than the manifest of {bundle.folder.name}", "convert the checkpoint again"
            )
    layers = [node for summary in summaries for node in summary.layers]
    nodes = [node for node in layers if node.place]
    datatypes = Counter("{} x {} -> {}".format(*node.datatypes) for node in nodes)
    # A layer is integer when all of its nodes are.
    floats = {names[node.place - 1] for node in nodes if node.datatypes[1].startswith("fp")}
    found = {names[node.place - 1] for node in nodes}
    return UNetFacts(
        delegates=tuple(delegate for summary in summaries for delegate in summary.delegates),
        operators=tuple(sorted({operator for summary in summaries for operator in summary.operators})),
        nodes=dict(datatypes.most_common()),
        arithmetic=len(layers) - len(nodes),
        integer_layers=tuple(name for name in names if name in found - floats),
        float_layers=tuple(name for name in names if name in floats),
    )
