"""What a conversion takes is foreseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2p_converters.core.checkpoint import open_checkpoint
from s2p_converters.targets.registry import TARGETS
from s2p_mobile.cli.app import run
from s2p_mobile.sources.default_checkpoint import default_checkpoint
from s2p_mobile.sources.opening import open_model


class _Full:
    free = 10


@pytest.mark.parametrize("target", ["coreml", "executorch"])
@pytest.mark.parametrize(("what", "message"), [("memory", "of memory and 0.0 GiB are free"), ("disk", "of disk and 0.0 GiB")])
def test_too_little_is_said_before_anything_is_written(
    target: str, what: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "memory":
        monkeypatch.setattr("s2p_converters.core.resources.available_memory", lambda: 1 << 20)
    else:
        monkeypatch.setattr("shutil.disk_usage", lambda _: _Full)
    assert run(["convert", "--target", target, "--out", str(tmp_path / "out")]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and "; " in errors[0]
    assert not list(tmp_path.iterdir())


def test_the_demo_model_fits_everywhere() -> None:
    """Sizes from docs/results.md: packages of 3.0 and 4.6 MB, of the whole bundle about as much again."""
    with default_checkpoint(open_model(None)) as folder:
        checkpoint = open_checkpoint(folder)
        targets = [TARGETS.get(name) for name in ("coreml", "executorch")]
        coreml, executorch = (target.disk(checkpoint, target.options()) for target in targets)
        assert 3.0e6 < coreml < executorch < 20e6
        # More than torch alone takes, less than a small machine has.
        assert all(2**29 < target.memory(checkpoint, target.options()) < 2**31 for target in targets)
