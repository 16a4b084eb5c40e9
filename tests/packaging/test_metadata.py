"""What the two distributions say about themselves, and that their version ranges are those that are tested."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from s2p_runtime import __version__

from .conftest import DISTRIBUTIONS, REPOSITORY

EXTRAS = ("coreml", "coreai", "executorch", "qnn", "evaluate", "gguf")
"""Of users; ``dev`` is for who works on the repository, ``all`` is these."""
OWN = set(DISTRIBUTIONS)


def project(name: str) -> dict[str, Any]:
    return tomllib.loads((DISTRIBUTIONS[name] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(name: str) -> list[Requirement]:
    """Of a distribution and its extras for users."""
    table = project(name)
    extras = table["optional-dependencies"]
    lines = [*table["dependencies"], *(line for extra in EXTRAS for line in extras.get(extra, ()))]
    return [Requirement(line) for line in lines]


def foreign() -> list[Requirement]:
    """What both distributions require of others."""
    return [each for name in DISTRIBUTIONS for each in requirements(name) if canonicalize_name(each.name) not in OWN]


def pins(versions: str) -> dict[str, str]:
    """Name -> version in a file of ``constraints/``."""
    lines = (REPOSITORY / "constraints" / f"{versions}.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(len(each.specifier) == 1 and str(each.specifier).startswith("==") for each in found)
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in found}


def test_s2p_mobile_takes_the_runtime_of_its_own_version() -> None:
    own = [each for each in requirements("s2p-mobile") if canonicalize_name(each.name) == "s2p-runtime"]
    assert len(own) >= 3, "itself, and an extra for each target"
    assert {str(each.specifier) for each in own} == {f"=={__version__}"}


def test_the_same_range_wherever_a_package_is_named() -> None:
    ranges: dict[str, set[str]] = {}
    for each in foreign():
        ranges.setdefault(canonicalize_name(each.name), set()).add(str(each.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


def test_the_oldest_versions_are_the_lower_ends_of_the_ranges() -> None:
    """So that ``scripts/test_versions.sh oldest`` tests what pyproject.toml promises."""
    oldest = pins("oldest")
    for each in foreign():
        (lower,) = [bound for bound in each.specifier if bound.operator in (">=", "==")]
        assert Version(lower.version) == Version(oldest[canonicalize_name(each.name)]), each


@pytest.mark.parametrize("versions", ["newest", "development"])
def test_tested_versions_lie_within_the_ranges(versions: str) -> None:
    found = pins(versions)
    for each in foreign():
        if (version := found.get(canonicalize_name(each.name))) is not None:
            assert version in each.specifier, each
    assert versions == "development" or {canonicalize_name(each.name) for each in foreign()} <= set(found)


def test_every_extra_is_part_of_all() -> None:
    table = project("s2p-mobile")["optional-dependencies"]
    (everything,) = (Requirement(line) for line in table["all"])
    assert everything.extras == set(table) - {"all", "dev"} == set(EXTRAS)
    assert Requirement(table["dev"][0]).extras == {"all"}


def test_both_have_the_licence() -> None:
    licences = {(folder / "LICENSE").read_bytes() for folder in DISTRIBUTIONS.values()}
    assert len(licences) == 1 and all(project(name)["license"] == "Apache-2.0" for name in DISTRIBUTIONS)
