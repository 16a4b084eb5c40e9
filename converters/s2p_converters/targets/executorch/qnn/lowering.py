"""From ONNX models to the programs of a bundle: compiled for each chip, wrapped, and compared chip by chip."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from s2p_converters.core.checkpoint import Checkpoint
from s2p_converters.targets.executorch.qnn.components import write_float
from s2p_converters.targets.executorch.qnn.layer_check import check_layers
from s2p_converters.targets.executorch.qnn.program import wrap
from s2p_converters.targets.executorch.qnn.ranges import LayerRanges, layer_ranges, narrow_grids, wide_grids
from s2p_converters.targets.executorch.qnn.unet import Form, UNetWriter
from s2p_converters.targets.float_components import FloatComponent
from s2p_converters.targets.integer_programs import layer_summaries
from s2p_converters.targets.protocol import ConvertedUNet
from s2p_runtime.bundle import LayerSummary
from s2p_runtime.component import Component, TensorSpec
from s2p_runtime.hosts.executorch.qnn.engine import QnnEngine, described_ports
from s2p_runtime.hosts.executorch.qnn.socs import Soc, soc_named
from s2p_runtime.hosts.executorch.qnn.worker import write_stub

if TYPE_CHECKING:
    from s2p_converters.targets.executorch.options import ExecuTorchOptions

QNN = "qnn"
STUBS = "onnxruntime"
"""Folder of what apps on ONNX Runtime load, below a chip's own."""


@dataclass(frozen=True)
class Compiler:
    """Compiles the ONNX models of one conversion.

    Attributes:
        socs: chips, the first one's programs are those that this machine runs.
        folder: of the bundle.
        stubs: whether context binary and stub are written too, for ONNX Runtime.
    """

    socs: tuple[Soc, ...]
    folder: Path
    stubs: bool

    @classmethod
    def asked(cls, options: ExecuTorchOptions, folder: Path) -> Compiler:
        """What the options ask for.

        Raises:
            S2PError: an unknown chip.
        """
        return cls(tuple(map(soc_named, options.socs)), folder, options.runtime == "onnxruntime")

    def write(self, model: Path, title: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Component:
        """Compile a model for every chip; returns its manifest entry. The component has the model's name.

        Raises:
            S2PError: an operator that the NPU does not take, or the compiler failed.
        """
        chips, compiled, engine = {}, None, QnnEngine()
        try:
            for soc in self.socs:
                place = self.folder / soc.name
                place.mkdir(exist_ok=True)
                context, program = model.with_suffix(f".{soc.name}"), place / f"{model.stem}.pte"
                compiled = engine.compile(f"the {title} for {soc.name}", model, context, soc, inputs)
                program.write_bytes(wrap(context.read_bytes(), compiled.graph, soc, inputs, outputs))
                if self.stubs:
                    self._write_stub(context, place / STUBS, compiled.graph, inputs, outputs, model.stem)
                context.unlink()
                chips[soc.name] = program.relative_to(self.folder).as_posix()
        finally:
            engine.close()
        assert compiled is not None
        return Component(
            path=next(iter(chips.values())),
            precision="float16",
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            backend=f"{QNN} executorch {version('executorch')} qairt {compiled.qairt}",
            chips=chips,
        )

    @staticmethod
    def _write_stub(
        context: Path, folder: Path, graph: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], name: str
    ) -> None:
        folder.mkdir(exist_ok=True)
        binary = folder / f"{name}.bin"
        binary.write_bytes(context.read_bytes())
        write_stub(folder / f"{name}.onnx", binary, graph, described_ports(inputs, outputs))


def lower_float(options: ExecuTorchOptions, folder: Path, component: FloatComponent) -> Component:
    """Write a component that stays in float.

    Raises:
        S2PError: it cannot be lowered.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        model = Path(scratch) / f"{component.name}.onnx"
        write_float(model, component)
        return Compiler.asked(options, folder).write(model, component.title, component.inputs, component.outputs)


def lower_unet(checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path) -> ConvertedUNet:
    """Write the U-Net as one program or ``options.chunks``, after a look at a layer of each kind alone.

    Raises:
        S2PError: it cannot be lowered.
        CheckFailed: a file does not hold what it should, or a layer computes something else.
    """
    form = unet_form(checkpoint, options)
    if options.self_check:
        for name in options.socs:
            check_layers(checkpoint, form, soc_named(name))
    return compile_unet(checkpoint, options, folder, form)


def compile_unet(checkpoint: Checkpoint, options: ExecuTorchOptions, folder: Path, form: Form) -> ConvertedUNet:
    """:func:`lower_unet` with grids that are known, no layer looked at alone.

    Raises:
        S2PError: it cannot be lowered.
        CheckFailed: a file does not hold what it should.
    """
    compiler, writer = Compiler.asked(options, folder), UNetWriter(checkpoint, form)
    components = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if options.chunks == 1:
            model = Path(scratch) / "unet.onnx"
            inputs, output = writer.whole(model)
            components["unet"] = compiler.write(model, "U-Net", inputs, [output])
        else:
            for number, (chunk, given, made) in enumerate(writer.chunks(options.chunks), 1):
                model = Path(scratch) / f"unet_{number}.onnx"
                writer.chunk(model, chunk, given, made)
                components[model.stem] = compiler.write(model, f"U-Net's program {number}", given, made)
                model.with_suffix(".bin").unlink(missing_ok=True)
    return ConvertedUNet(components, _layers(checkpoint, writer, form))


def unet_form(checkpoint: Checkpoint, options: ExecuTorchOptions) -> Form:
    """The grids of the U-Net's layers."""
    return form_of(checkpoint, options, layer_ranges(checkpoint))


def form_of(checkpoint: Checkpoint, options: ExecuTorchOptions, ranges: Mapping[str, LayerRanges]) -> Form:
    """The grids of the U-Net's layers over ranges that were met."""
    narrow = narrow_grids(ranges, checkpoint.layers) if options.activations == "uint8" else {}
    return Form(wide_grids(ranges, checkpoint.layers), narrow)


def _layers(checkpoint: Checkpoint, writer: UNetWriter, form: Form) -> tuple[LayerSummary, ...]:
    """How each layer rests; those that are not quantized in float16."""
    rows = layer_summaries(checkpoint, writer.weights, half=True, rounds=False)
    bits = {name: 8 if name in form.narrow else 16 for name in writer.weights}
    return tuple(
        row.model_copy(update={"activation_bits": bits[row.name], "scheme": f"{row.scheme}, uint{bits[row.name]} activations"})
        if row.name in bits
        else row
        for row in rows
    )
