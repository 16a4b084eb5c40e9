"""What a pass holds while it runs, counted on networks without numbers (torch's meta device)."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from s2p_converters.core.graph import Operators, StepUNet, UNetStructure
from s2p_converters.core.graph.operators import FloatLayer
from s2p_mobile.quantize.stages.counting import ShapeRows, inputs_without_numbers


class _FusedAttention(Function):
    """What attention keeps where it is one kernel: its inputs, its output, and a sum for each query. torch's meta device knows only
    attention that writes all scores down."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        output = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, output, q.new_empty(*q.shape[:2], heads))
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, _, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


def fuse_attention(unet: StepUNet) -> None:
    """Let a graph without numbers count attention as one kernel."""

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        output: Tensor = _FusedAttention.apply(q, k, v, heads)
        return output

    unet.ops.attention = attention  # type: ignore[method-assign]


class _Alive(TorchDispatchMode):
    """Bytes of the tensors that are there at a time.

    Attributes:
        peak: the most that there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._uses: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        return found

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._uses:
            self._now += size
            self.peak = max(self.peak, self._now)
        self._uses[key] = self._uses.get(key, 0) + 1
        weakref.finalize(tensor, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._uses[key] -= 1
        if not self._uses[key]:
            del self._uses[key]
            self._now -= size


def _empty_graph(structure: UNetStructure) -> StepUNet:
    with torch.device("meta"):
        unet = StepUNet(structure, ShapeRows(structure), Operators())
    fuse_attention(unet)
    return unet


@functools.lru_cache(maxsize=8)
def forward_bytes(structure: UNetStructure, tokens: int) -> int:
    """What a pass of one sample without gradients makes at its worst moment, float32.

    Args:
        tokens: N of the text.
    """
    unet = _empty_graph(structure)
    inputs = inputs_without_numbers(structure, 1, tokens)
    with _Alive() as alive, torch.no_grad():
        unet(*inputs)
    return alive.peak


@functools.lru_cache(maxsize=8)
def waiting_bytes(structure: UNetStructure, tokens: int) -> tuple[int, int]:
    """What waits of one sample while the graph is walked from one :class:`~s2p_converters.core.graph.Unit` to the next, where it is
    most: state and skips, and the state that comes; and the most that the tensor inputs of a module and its output are. float32.

    Args:
        tokens: N of the text.
    """
    unet = _empty_graph(structure)
    modules = [0]

    def inside(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            tensors = [tensor for tensor in given if isinstance(tensor, Tensor)]
            modules[0] = max(modules[0], sum(tensor.nbytes for tensor in (*tensors, output)))

    for unit in unet.units():
        for part in unit.modules.values():
            for module in part.modules():
                module.register_forward_hook(inside)
    x, step, context = inputs_without_numbers(structure, 1, tokens)
    skips: list[Tensor] = []
    most = 0
    with torch.no_grad():
        row = unet.row(step)
        for unit in unet.units():
            before = [x, *skips]
            x = unit(x, skips, context, row)
            added = skips[len(before) - 1 :]
            most = max(most, sum(tensor.nbytes for tensor in (*before, x, *added)))
    return most, modules[0]


@dataclass(frozen=True)
class Saved:
    """What a forward pass keeps for the backward pass, float32 bytes.

    Attributes:
        activations: of one sample.
        inputs: of one sample, of the modules that can run again in the backward pass.
        largest: of one sample, within the largest of them.
    """

    activations: int
    inputs: int
    largest: int

    def kept(self, recomputes: bool) -> int:
        """Of one sample."""
        return self.inputs + self.largest if recomputes else self.activations


def saved_by(unet: StepUNet, inputs: Sequence[Tensor]) -> Saved:
    """Count on a graph of the meta device.

    Args:
        inputs: of a call, of any number of samples but one.
    """
    fuse_attention(unet)
    batch = inputs[0].shape[0]
    known = {tensor.untyped_storage()._cdata for tensor in (*unet.parameters(), *unet.buffers())}
    kept: list[Tensor] = []  # alive, so that a storage's address stands for it alone
    totals = {"activations": 0, "inputs": 0, "largest": 0}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage()._cdata
        if address not in known:
            known.add(address)
            kept.append(tensor)
            totals["activations"] += tensor.untyped_storage().nbytes()
        return tensor

    entered: set[int] = set()
    given_to: list[Tensor] = []
    before: dict[int, int] = {}

    def begin(module: nn.Module, given: tuple[Any, ...]) -> None:
        before[id(module)] = totals["activations"]
        for tensor in given:
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in entered:
                entered.add(tensor.untyped_storage()._cdata)
                given_to.append(tensor)
                totals["inputs"] += tensor.untyped_storage().nbytes()

    def end(module: nn.Module, given: Any, output: Any) -> None:
        totals["largest"] = max(totals["largest"], totals["activations"] - before[id(module)])

    for _, block in unet.named_blocks():
        for module in recomputed_modules(block):
            module.register_forward_pre_hook(begin)
            module.register_forward_hook(end)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        unet(*inputs)
    return Saved(*(totals[name] // batch for name in ("activations", "inputs", "largest")))


def recomputed_modules(block: nn.Module) -> Iterable[nn.Module]:
    """The modules of a block that run again where a pass keeps their inputs only: resnets and transformers."""
    for group in ("resnets", "attentions"):
        modules = getattr(block, group)
        assert isinstance(modules, nn.ModuleList)
        yield from modules


@functools.lru_cache(maxsize=8)
def saved_by_fp(structure: UNetStructure, tokens: int) -> Saved:
    """What the FP graph keeps for gradients of its layers' weights."""
    unet = _empty_graph(structure).requires_grad_(False)
    for module in unet.modules():
        if isinstance(module, FloatLayer):
            module.weight.requires_grad_(True)
    return saved_by(unet, inputs_without_numbers(structure, 2, tokens))
