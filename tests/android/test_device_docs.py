"""The commands of docs/devices.md: what they name exists, in our own tools, in the presets, and in ExecuTorch's build at its version.

``executorch_cmake.json`` has ExecuTorch's options, what they need of each other, and where this was read.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from s2p_mobile.cli.app import app
from s2p_runtime.hosts.executorch.qnn.socs import SOCS

REPOSITORY = Path(__file__).resolve().parents[2]
HARNESS = REPOSITORY / "android_harness"
PAGE = (REPOSITORY / "docs" / "devices.md").read_text(encoding="utf-8")
EXECUTORCH = json.loads(Path(__file__).with_name("executorch_cmake.json").read_text())
ANDROID_TOOLCHAIN = {"ANDROID_ABI", "ANDROID_PLATFORM", "ANDROID_STL"}
"""Of the NDK: https://developer.android.com/ndk/guides/cmake#variables"""
ADB = {"tcpip", "connect", "push", "pull", "shell", "install", "uninstall", "devices", "logcat"}
"""https://developer.android.com/tools/adb"""


def commands(page: str) -> list[list[str]]:
    """Every command of the page's blocks and inline code that begins with a program that is looked at, as words."""
    fenced = re.findall(r"^ *```\w*\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", page, flags=re.MULTILINE | re.DOTALL))
    found = []
    for line in lines:
        # Words of a table behind a command stand two or more spaces away.
        line = re.sub(r"\s{2,}[a-zA-Z].*$", "", line.strip())
        for part in re.split(r"\s&&\s", line):
            with_comment = part.split(" # ")[0]
            try:
                words = shlex.split(with_comment)
            except ValueError:
                continue
            if words:
                found.append(words)
    return found


COMMANDS = commands(PAGE)


def _named(program: str) -> Iterator[list[str]]:
    return (words[1:] for words in COMMANDS if Path(words[0]).name == program)


def cmake_problems(words: list[str]) -> list[str]:
    """What is wrong with a configuration of ExecuTorch (``-B``) or of our own (``--preset``)."""
    given = dict(re.match(r"-D(\w+)=(.*)", word).groups() for word in words if word.startswith("-D"))  # type: ignore[union-attr]
    own = {name for name in given if not name.startswith("CMAKE_")} - ANDROID_TOOLCHAIN
    if "--preset" in words:
        presets = json.loads((HARNESS / "CMakePresets.json").read_text())
        key = "buildPresets" if "--build" in words else "configurePresets"
        known = {preset["name"] for preset in presets[key]}
        cached = set(re.findall(r"(?:set|option|find_path)\((S2P_\w+)", (HARNESS / "CMakeLists.txt").read_text()))
        name = words[words.index("--preset") + 1]
        return [*([] if name in known else [f"no preset {name}"]), *(f"no option {one}" for one in own - cached)]
    options = {**EXECUTORCH["defaults"], **{name: given[name] for name in own}}
    on = {name for name, value in options.items() if value in ("ON", "TRUE", "1")}
    problems = [f"no option {name}" for name in own - set(EXECUTORCH["defaults"])]
    problems += [f"{name} requires {one}" for name in on for one in EXECUTORCH["requires"].get(name, []) if one not in on]
    problems += [f"{name} conflicts with {one}" for name in on for one in EXECUTORCH["conflicts"].get(name, []) if one in on]
    return problems


def test_cmake_configures() -> None:
    configurations = [words for words in _named("cmake") if "-B" in words or "--preset" in words]
    assert len([words for words in configurations if "-B" in words]) >= 2 and len(configurations) >= 6
    assert {" ".join(words): cmake_problems(words) for words in configurations if cmake_problems(words)} == {}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["-B", "b", "-DEXECUTORCH_BUILD_EXTENSION_MODULE=ON"], "requires EXECUTORCH_BUILD_EXTENSION_NAMED_DATA_MAP"),
        (["-B", "b", "-DEXECUTORCH_BUILD_EXTENSION_THREADPOOL=ON"], "no option EXECUTORCH_BUILD_EXTENSION_THREADPOOL"),
        (["--preset", "phone"], "no preset phone"),
        (["--preset", "board", "-DS2P_NONE=1"], "no option S2P_NONE"),
    ],
)
def test_mistakes_in_configurations_are_found(words: list[str], problem: str) -> None:
    """The first two are what the page once said."""
    assert any(problem in one for one in cmake_problems(words))


def test_versions_are_new_enough() -> None:
    """CMake as ExecuTorch asks for it; one NDK in the page and in the build; the AAR and the runner of one ExecuTorch."""
    least = tuple(map(int, EXECUTORCH["cmake_minimum"].split(".")))
    named = [tuple(map(int, version.split("."))) for version in re.findall(r"CMake (\d+\.\d+)", PAGE)]
    assert named and min(named) >= least
    (ndk,) = set(re.findall(r"Sdk/ndk/([\d.]+)", PAGE))
    assert f'ndkVersion = "{ndk}"' in (HARNESS / "library" / "build.gradle.kts").read_text()
    (version,) = set(re.findall(r"--branch v([\d.]+)", PAGE))
    assert version == EXECUTORCH["version"]
    for properties in (HARNESS / "gradle.properties", REPOSITORY / "examples/android/gradle.properties"):
        assert f"s2p.executorch={version}\n" in properties.read_text()


def _cli() -> Any:
    """The command with its commands by name."""
    return typer.main.get_command(app)


def cli_problems(words: list[str]) -> list[str]:
    """What is wrong with a command line of ``s2p-mobile``."""
    group = _cli()
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None or name not in group.commands:
        return [] if name is None else [f"no command {name}"]
    # The context is that of the complete command: convert has the options of all targets.
    complete = group.commands[name].make_context(name, [], resilient_parsing=True).command
    known = {option for parameter in complete.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    return [f"{name} has no {word}" for word in words if word.startswith("--") and word.split("=")[0] not in known]


def test_our_own_command_has_these_options() -> None:
    lines = list(_named("s2p-mobile"))
    assert len(lines) > 10
    assert {" ".join(words): cli_problems(words) for words in lines if cli_problems(words)} == {}
    assert cli_problems(["bench", "B", "--units"]) == ["bench has no --units"]
    assert cli_problems(["benhc", "B"]) == ["no command benhc"]


@pytest.mark.parametrize("tool", ["s2p-bench", "s2p-run"])
def test_the_runner_has_these_options(tool: str) -> None:
    usage = (HARNESS / "tools" / f"{tool.replace('-', '_')}.cpp").read_text()
    known = set(re.findall(r"--[a-z-]+", usage)) | {"--help"}
    # The Swift tool of the same name has verbs.
    lines = [words for words in _named(tool) if words and words[0] not in ("run", "draw")]
    assert lines
    assert [word for words in lines for word in words if word.startswith("--") and word not in known] == []


def test_adb_and_gradle_know_what_they_are_asked() -> None:
    asked = list(_named("adb"))
    assert asked and [words for words in asked if words and words[0] not in ADB] == []
    app = (HARNESS / "app/src/main/java/mobile/s2p/harness/RunOrder.kt").read_text()
    known: list[str] = re.findall(r'"([a-z-]+)"', re.search(r"KNOWN = setOf\((.*?)\)", app, re.DOTALL).group(1))  # type: ignore[union-attr]
    for words in asked:
        names = [words[i + 1] for i, word in enumerate(words) if word == "--es"]
        assert set(names) <= set(known)
    manifest = (HARNESS / "app/src/main/AndroidManifest.xml").read_text()
    starts = [words[words.index("-n") + 1] for words in asked if "-n" in words]
    assert starts and all(f'android:name="{start.partition("/")[2]}"' in manifest for start in starts)
    settings = (HARNESS / "settings.gradle.kts").read_text()
    given = [word for words in _named("gradlew") for word in words]
    switches = re.findall(r"^-P([\w.]+)=", "\n".join(given), re.MULTILINE)
    properties = (HARNESS / "gradle.properties").read_text()
    assert "s2p.npu" in switches and [name for name in switches if f"\n{name}=" not in properties] == []
    tasks: list[Any] = [re.fullmatch(r":(\w+):assemble(Release|Debug)", word) for word in given if not word.startswith("-P")]
    assert tasks and all(task is not None and f'":{task.group(1)}"' in settings for task in tasks)


def test_chips_are_those_that_there_are_programs_for() -> None:
    rows = re.findall(
        r"^\| `(SM\w+)` \| (.+?) \| V(\d+) \| `libQnnHtpV(\d+)Stub.so`, `libQnnHtpV(\d+)Skel.so` \|$", PAGE, re.MULTILINE
    )
    assert rows == [(soc.name, soc.title, *[str(soc.arch)] * 3) for soc in SOCS.values()]


def test_from_a_phone_to_a_report_in_ten_steps() -> None:
    section = PAGE.split("### From a phone to a report: ten steps\n")[1].split("\n### ")[0]
    steps = re.findall(r"^(\d+)\. ", section, re.MULTILINE)
    assert steps == [str(number) for number in range(1, 11)]
    # A quarter of an hour: 200 words a minute to read, and no more than ten lines to type.
    assert len(section.split()) < 15 * 200 / 2
    assert len(re.findall(r"`(?:adb|s2p-mobile|pip) [^`]*`", section)) <= 10
