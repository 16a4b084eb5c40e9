"""The finished checkpoint that a model's folder may hold, see :mod:`s2p_mobile.sources.defaults`."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from s2p_mobile.sources.model import Model
from s2p_runtime.errors import S2PError


@contextlib.contextmanager
def default_checkpoint(model: Model) -> Iterator[Path]:
    """A whole checkpoint folder, named as the model: what its folder holds, joined with the components that are the model's own.

    It is removed at the end of the block.

    Raises:
        S2PError: the model has no finished checkpoint.
    """
    stored = model.defaults.checkpoint
    if stored is None:
        raise S2PError(f"the model {model.name} has no checkpoint", "make one with s2p-mobile quantize and give that")
    with tempfile.TemporaryDirectory(prefix="s2p-mobile-") as scratch:
        folder = Path(scratch) / model.name
        shutil.copytree(stored, folder, copy_function=shutil.copyfile)
        missing = [name for name in model.family.folders if not (folder / name).exists()]
        for name in missing:
            shutil.copytree(model.folder / name, folder / name, copy_function=shutil.copyfile)
        # As quantize wrote them when it recorded their checksums.
        for table in model.conditioner.tables:
            if Path(table.spec.vocab).parent.name in missing:
                table.write(folder)
        yield folder
