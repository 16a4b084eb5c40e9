"""Fresh virtual environments that hold exactly what a wheel's metadata asks for, without downloading it again.

What a distribution requires is read from its metadata, with extras and markers, as pip does. The files of each requirement are linked
from the environment that runs the tests, one by one as its RECORD lists them; nothing else of that environment can be imported, and
``pip check`` in the new one agrees. What this leaves unproven is that a registry has these files: scripts/setup.sh downloads them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from email.message import Message
from email.parser import HeaderParser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


class Environment:
    """A virtual environment without pip; wheels of this repository are installed, what they require is linked."""

    def __init__(self, folder: Path, wheels: dict[str, Path]) -> None:
        """
        Args:
            wheels: by the distributions' names; those that are required are installed, too.
        """
        venv.create(folder, symlinks=True)
        self.folder, self.wheels = folder, wheels
        self.python = folder / "bin" / "python"
        found = subprocess.run(
            [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.site_packages = Path(found.stdout.strip())

    def install(self, requirement: str) -> None:
        """As ``pip install REQUIREMENT``, for one of the wheels with or without extras."""
        for wanted in closure([Requirement(requirement)], self.wheels):
            if self.has(wanted):
                continue
            if wanted in self.wheels:
                self.pip("install", "--no-deps", "--no-index", str(self.wheels[wanted]))
            else:
                link(distribution(wanted), self.site_packages)
        self.pip("check")

    def has(self, name: str) -> bool:
        """Whether a distribution is installed."""
        return any(Distribution.discover(name=name, path=[str(self.site_packages)]))

    def pip(self, *arguments: str) -> None:
        """The pip of the environment that runs the tests, on this one."""
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", "--quiet"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *arguments: str | Path, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run this environment's Python in a folder, demanding an exit status. Nothing of the repository is on its path."""
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        done = subprocess.run(
            [self.python, *arguments], cwd=cwd, env=variables, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def modules(self) -> set[str]:
        """Top-level names that can be imported here besides the standard library's."""
        script = "import json, pkgutil, sys; print(json.dumps([m.name for m in pkgutil.iter_modules()]))"
        found = json.loads(self.run("-c", script, cwd=self.folder).stdout)
        return set(found) - set(sys.stdlib_module_names)


def closure(wanted: Iterable[Requirement], wheels: dict[str, Path]) -> dict[str, None]:
    """Names of everything that requirements ask for, those without requirements of their own before what needs them.

    Raises:
        AssertionError: something is not installed here, or in a version that is not asked for.
    """
    order: dict[str, None] = {}
    seen: set[tuple[str, str]] = set()

    def visit(requirement: Requirement) -> None:
        name = canonicalize_name(requirement.name)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for further in _required(name, extra, wheels):
                visit(further)
        assert requirement.specifier.contains(_version(name, wheels), prereleases=True), (
            f"{requirement}: {_version(name, wheels)}"
        )
        order.setdefault(name)

    for requirement in wanted:
        visit(requirement)
    return order


def _required(name: str, extra: str, wheels: dict[str, Path]) -> Iterator[Requirement]:
    """What a distribution itself requires (``extra`` empty), or what one of its extras adds."""
    lines = metadata(wheels[name]).get_all("Requires-Dist") if name in wheels else distribution(name).requires
    for requirement in map(Requirement, lines or ()):
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if (
            always
            if extra == ""
            else not always and requirement.marker is not None and requirement.marker.evaluate({"extra": extra})
        ):
            yield requirement


def _version(name: str, wheels: dict[str, Path]) -> str:
    try:
        return str(metadata(wheels[name])["Version"] if name in wheels else distribution(name).version)
    except PackageNotFoundError:
        raise AssertionError(f"{name} is required but not installed; run scripts/setup.sh dev") from None


def metadata(wheel: Path) -> Message:
    """The METADATA of a wheel."""
    with ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def link(source: Distribution, site_packages: Path) -> None:
    """Make the files of an installed distribution visible in another environment; scripts and what lies elsewhere is left out."""
    for entry in source.files or ():
        if ".." in entry.parts or entry.is_absolute():
            continue
        place, origin = site_packages / entry, Path(str(source.locate_file(entry)))
        if origin.is_file() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(origin)
