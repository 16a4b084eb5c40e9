"""How a prompt becomes the further inputs of a U-Net: what every kind of conditioning offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.bundle import PictureSize
from s2p_runtime.conditioning.tokens import TokenIds

Array = NDArray[Any]
Array32 = NDArray[np.float32]
RunComponent = Callable[[str, Mapping[str, Array]], Mapping[str, Array32]]
"""(a component's name, its inputs by name) -> its outputs by name: :meth:`s2p_runtime.backends.Backend.run`, or a network that
stands for the program."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """Inputs of the U-Net that stay the same for all calls of a picture.

    Attributes:
        inputs: by the names of the U-Net's ports, in the order of its arguments behind sample and call: float32 [B, ...] each, the
            unconditional branch first. ``encoder_hidden_states`` [B, N, D] is always there.
    """

    inputs: Mapping[str, Array32]

    @property
    def branches(self) -> int:
        """B: 2 with classifier-free guidance, else 1."""
        return len(next(iter(self.inputs.values())))


class Conditioner(ABC):
    """One kind of conditioning, with what a manifest says about it.

    Attributes:
        kind: its name, by which other things depend on it.
        token_inputs: what the text encoder takes -> the token ids that it is, by their name in golden runs.
        components: programs of a bundle besides U-Net and VAE decoder, in the order in which a prompt needs them.
        inputs: what the U-Net takes -> the recorded tensor that it is, in the order of the U-Net's arguments.
        made_by: recorded tensor -> the component that makes it; what no component makes is missing here.
    """

    kind: ClassVar[str]
    token_inputs: ClassVar[Mapping[str, str]]
    components: ClassVar[tuple[str, ...]]
    inputs: ClassVar[Mapping[str, str]]
    made_by: ClassVar[Mapping[str, str]]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of what golden runs record of a prompt besides its token ids."""
        return tuple(dict.fromkeys((*self.made_by, *self.inputs.values())))

    @property
    def size_tensors(self) -> tuple[str, ...]:
        """Names of what the recorded calls of a further picture size hold of a prompt."""
        return tuple(self.inputs.values())

    def token_rows(self, token_ids: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """What the text encoder takes for each text, int32 [1, N] an input.

        Args:
            token_ids: :data:`TokenIds` of K texts, perhaps among other tensors.
        """
        for rows in zip(*(token_ids[name] for name in self.token_inputs.values()), strict=True):
            yield {port: row[None] for port, row in zip(self.token_inputs, rows, strict=True)}

    @abstractmethod
    def encode(
        self, run: RunComponent, token_ids: TokenIds, size: PictureSize | None = None, negative: bool = False
    ) -> dict[str, Array]:
        """All :attr:`tensors` of a prompt.

        Args:
            run: runs the :attr:`components`.
            token_ids: of B texts, the unconditional branch first where there are two.
            size: of the picture; None: the own one.
            negative: whether the unconditional branch is a text that was asked for, and not the absence of one.
        """

    @abstractmethod
    def errors(self, run: RunComponent, tensors: Mapping[str, Array]) -> Iterator[tuple[str, float]]:
        """(component, relative error) of each of the :attr:`components` at its recorded inputs.

        Args:
            tensors: of a golden run: the token ids and all :attr:`tensors`.
        """

    def conditions(self, tensors: Mapping[str, Array]) -> Conditions:
        """The U-Net's inputs among recorded or encoded tensors."""
        return Conditions({port: tensors[name] for port, name in self.inputs.items()})
