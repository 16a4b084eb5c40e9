"""Which operators of a bundle's programs are expected to run on a device's accelerator, and what the others cost.

A target works it out from the programs; nothing here knows one. "Expected" is by published rules and not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from s2p_runtime.contract import Contract

Effect = Literal["cut", "copy", "padding", "note"]
"""What breaking a rule does: the operator leaves the accelerator, its data is written anew, its memory grows; or a remark."""
Position = Literal["start", "inside", "end"]
"""Of an operator that leaves the accelerator: before everything that runs there, between two such parts, or after them."""


class OperatorPlacement(Contract):
    """Where one operator is expected to run."""

    name: str = Field(description="of its first output, as in the program")
    type: str = Field(description="as in the program, such as conv")
    stays: bool | None = Field(description="on the accelerator; null: the rules do not decide it")
    rule: str | None = Field(description="id of the rule that says so; null: no rule knows the operator")

    @property
    def unknown(self) -> bool:
        """Whether no rule knows this operator."""
        return self.stays is None and self.rule is None


class Rule(Contract):
    """One rule."""

    id: str
    effect: Effect
    says: str
    source: str = Field(description="document and address, or 'not documented'")


class Finding(Contract):
    """One operator that a rule speaks of."""

    operator: str = Field(description="name of its first output")
    type: str
    rule: str
    effect: Effect
    certain: bool = Field(description="false: the sources say that it may be so, or contradict each other")
    position: Position | None = Field(description="of an operator that leaves, or may leave, the accelerator")
    between_convolutions: bool = Field(description="inside, and after the program's first and before its last convolution")
    bytes: int = Field(description="moved by a copy or a transfer, or added by padding; 0 for a note")
    words: str = Field(description="what was found, such as the type of a tensor")


class Segment(Contract):
    """Operators that run on the accelerator without leaving it."""

    operators: int
    first: str = Field(description="name of the first one, in the program's order")
    last: str


class ProgramResidency(Contract):
    """One function of one program."""

    program: str = Field(description="component of the bundle")
    function: str
    placements: tuple[OperatorPlacement, ...] = Field(description="every operator in the program's order, constants aside")
    segments: tuple[Segment, ...] = Field(description="in the order in which they run; undecided operators count as staying")
    segments_at_most: int = Field(description="if every undecided operator leaves the accelerator")
    findings: tuple[Finding, ...]
    activation_bytes: int = Field(description="of all values between operators, as declared")
    padded_bytes: int = Field(description="the same with the padding of the accelerator's layout")
    copied_bytes: int = Field(description="written and read by operators that only rearrange data")
    transfer_bytes: int = Field(description="that operators outside of the accelerator read and write")
    weight_bytes: int = Field(description="of the program's constants, as stored")

    @property
    def title(self) -> str:
        """The program, and its function where that is not the only one's usual name."""
        return self.program if self.function == "main" else f"{self.program}.{self.function}"

    @property
    def figures(self) -> dict[str, int]:
        """The main figures by name."""
        return {
            "operators": len(self.placements),
            "staying": sum(each.stays is True for each in self.placements),
            "segments": len(self.segments),
            "segments_at_most": self.segments_at_most,
            "cuts_inside": len(self.cuts(certain=True, position="inside")),
            "possible_cuts_inside": len(self.cuts(certain=False, position="inside")),
            "unknown": len(self.unknown),
            "activation_bytes": self.activation_bytes,
            "padded_bytes": self.padded_bytes,
            "copied_bytes": self.copied_bytes,
            "transfer_bytes": self.transfer_bytes,
        }

    @property
    def unknown(self) -> tuple[OperatorPlacement, ...]:
        """Operators that no rule knows."""
        return tuple(each for each in self.placements if each.unknown)

    def cuts(self, *, certain: bool | None = None, position: Position | None = None) -> tuple[Finding, ...]:
        """Operators that leave the accelerator, or may.

        Args:
            certain: only those, or only the others.
            position: only those there.
        """
        return tuple(
            each
            for each in self.findings
            if each.effect == "cut" and certain in (None, each.certain) and position in (None, each.position)
        )


class Residency(Contract):
    """What is expected of all programs of a bundle."""

    accelerator: str = Field(description="for people, such as 'Apple Neural Engine'")
    programs: tuple[ProgramResidency, ...]
    rules: tuple[Rule, ...] = Field(description="those that findings and placements name")

    @property
    def placements(self) -> Mapping[str, Sequence[OperatorPlacement]]:
        """Program (``unet``, or ``unet.512x768`` of one with several functions) -> its operators, in the program's order."""
        return {each.title: each.placements for each in self.programs}
