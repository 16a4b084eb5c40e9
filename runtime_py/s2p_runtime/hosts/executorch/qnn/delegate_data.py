"""The bytes of ExecuTorch's QNN delegate: a header, then the context binary that Qualcomm's compiler wrote.

Source: ``QnnContextCustomProtocol`` of ExecuTorch (``backends/qualcomm/runtime/backends/QnnCustomProtocol``). The header is a
magic number, a signature that tells delegates apart, the size of the binary, and zeros up to the alignment of the binary.
"""

from __future__ import annotations

import hashlib
import struct

from s2p_runtime.errors import S2PError

ALIGNMENT = 256
"""Of the binary in the delegate, and of the delegate in the program (``GetQNNCtxBinAlignment``)."""
_HEADER = struct.Struct("<IQQ")
_MAGIC = 0x5678ABCD
_POSITIVE = (1 << 63) - 1


def pack(context: bytes) -> bytes:
    """Delegate data of a context binary. Where ExecuTorch signs with the time of day, this takes a digest: the same binary gives the
    same bytes."""
    signature = int.from_bytes(hashlib.sha256(context).digest()[:8], "little") & _POSITIVE
    return _HEADER.pack(_MAGIC, signature, len(context)).ljust(ALIGNMENT, b"\0") + context


def unpack(data: bytes) -> bytes:
    """The context binary of delegate data.

    Raises:
        S2PError: they are something else, or truncated.
    """
    magic, _, size = _HEADER.unpack_from(data.ljust(_HEADER.size, b"\0"))
    if magic != _MAGIC or len(data) < ALIGNMENT + size:
        raise S2PError("the delegate of a program is no context binary of QNN", "convert the checkpoint again")
    return data[ALIGNMENT : ALIGNMENT + size]
