"""Which bundles the ExecuTorch host runtime accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.executorch.delegates import check_version

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("installed", ["1.4.1", "1.4.0", "1.4.2+cpu"])
def test_the_same_minor_version_is_accepted(installed: str) -> None:
    check_version("xnnpack executorch 1.4.1", installed, "bundle")


def test_what_else_made_a_program_may_follow() -> None:
    check_version("qnn executorch 1.4.1 qairt 2.51.0", "1.4.2", "bundle")
    with pytest.raises(S2PError, match=r"made by executorch 1\.4\.1, installed is 1\.5\.0"):
        check_version("qnn executorch 1.4.1 qairt 2.51.0", "1.5.0", "bundle")


@pytest.mark.parametrize(
    "built_with, message",
    [
        ("xnnpack executorch 1.3.0", "made by executorch 1.3.0, installed is 1.4.1"),
        ("xnnpack executorch 2.4.0", "made by executorch 2.4.0, installed is 1.4.1"),
        ("vulkan executorch 1.4.1", "vulkan backend, which does not run here"),
        ("xnnpack", "does not say which executorch"),
    ],
)
def test_other_versions_and_backends_are_named(built_with: str, message: str) -> None:
    with pytest.raises(S2PError, match=message):
        check_version(built_with, "1.4.1", "bundle")
