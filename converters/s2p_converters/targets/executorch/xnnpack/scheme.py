"""How activations become integers."""

from __future__ import annotations

from typing import Literal

Scheme = Literal["pinned", "static", "dynamic"]
"""How a layer's input becomes int8.

- ``pinned``: the checkpoint's scale of the step. The input is clamped to the step's range and two channels that hold the
  ends of the range are appended (their weights are zero), so that the range which XNNPACK finds at run time is the
  checkpoint's.
- ``static``: the input is divided by the step's scale and rounded to int8; the output is rounded to int8 too, with a constant
  scale relative to the step's, because XNNPACK has no kernel from static int8 to float.
- ``dynamic``: the range of the input at hand (per image for convolutions, per token for linear layers); the table is not used.
"""
