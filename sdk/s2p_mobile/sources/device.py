"""Where torch computes."""

from __future__ import annotations

import re

import torch

from s2p_runtime.errors import S2PError

_KNOWN = "auto, cpu, cuda, cuda:N and mps"


def choose_device(name: str | torch.device) -> torch.device:
    """A torch device by name: ``auto`` (CUDA, else MPS, else the CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        S2PError: unknown name, or no such device on this machine.
    """
    text = str(name)
    if text == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    match = re.fullmatch(r"(cpu|mps)(?::0)?|(cuda)(?::([0-9]{1,3}))?", text)
    if match is None:
        raise S2PError(f"unknown device {text!r}", f"devices are {_KNOWN}", "device")
    kind, number = match[1] or match[2], match[3]
    if (kind == "cuda" and not torch.cuda.is_available()) or (kind == "mps" and not torch.backends.mps.is_available()):
        raise S2PError(f"this machine has no {kind} device", "choose `device=cpu` or auto", "device")
    if number is None:
        return torch.device(kind)
    if int(number) >= torch.cuda.device_count():
        raise S2PError(f"this machine has no device {text}", f"its last is cuda:{torch.cuda.device_count() - 1}", "device")
    return torch.device(kind, int(number))
