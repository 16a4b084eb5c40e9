"""What a quantization method is to the rest of the house."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from s2p_mobile.quantize.job import QuantizationJob, QuantizedUNet
from s2p_mobile.quantize.stages import Stage


class Method(Protocol):
    """Turns a job into a quantized U-Net. Writing the checkpoint is common to all methods.

    Whoever writes one inherits from this class and need say only what is different: a name, a title, ``run`` and ``stages``.

    Attributes:
        name: in lists and in checkpoints.
        title: in words, one line.
        splits_shortcuts: it follows ``split_shortcuts`` of its recipe; else shortcuts stay whole, as its authors have them.
        keeps_work: what an interrupted run need not do again lies in the job's work folder, so that a run can go on from there.
    """

    name: str
    title: str
    splits_shortcuts: bool = True
    keeps_work: bool = False

    def run(self, job: QuantizationJob) -> QuantizedUNet:
        """Quantize.

        Raises:
            S2PError: the job is impossible, or a latent set that it names is of another one.
        """
        ...

    def stages(self, job: QuantizationJob) -> Sequence[Stage]:
        """What :meth:`run` announces and does, one stage after another, and what each holds in memory; loads no weights."""
        ...

    def widths(self, job: QuantizationJob) -> Mapping[str, int] | None:
        """Bit-width of every layer that is quantized, where the method has its own. Here: none, the recipe says."""
        return None

    def disk(self, job: QuantizationJob) -> Mapping[str, int]:
        """Bytes of files that :meth:`run` writes into its work folder or a temporary one, by what they hold. Here: none."""
        return {}
