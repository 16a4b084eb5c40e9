"""What needs Apple's SDK is type-checked as iOS 17 compiles it, against declarations of its interfaces; mistakes are found."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
STUBS = REPOSITORY / "ios_harness/AppleStubs"
CHECK = STUBS / "check.sh"

needs_swift = pytest.mark.skipif(shutil.which("swiftc") is None, reason="swift is not installed")


def check(root: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([CHECK, root], capture_output=True, text=True, timeout=900)
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout.strip())
    return done


@needs_swift
def test_library_bench_and_apps_fit_the_interfaces() -> None:
    done = check(REPOSITORY)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "warning:" not in done.stderr


MOBILE, APP = "ios_harness/Sources/S2PMobile", "ios_harness/Sources/S2PBenchApp"
MISTAKES = {
    "S2PMobile": {
        "a wrong name": (
            f"{MOBILE}/Engines/CoreML/CoreMLProgram.swift",
            ".cpuAndNeuralEngine",
            ".neuralEngineAndCPU",
            "no member 'neuralEngineAndCPU'",
        ),
        "an API of a newer system": (
            f"{MOBILE}/Engines/CoreML/CoreMLProgram.swift",
            "guard #available(iOS 17.4, macOS 14.4, *), let compiled",
            "guard let compiled",
            "is only available in iOS 17.4 or newer",
        ),
        "Core AI on an older system": (
            f"{MOBILE}/Engines/Engine.swift",
            "if #available(iOS 27.0, macOS 27.0, *), bundle",
            "if bundle",
            "is only available in iOS 27.0 or newer",
        ),
        "a wrong label of Core AI": (
            f"{MOBILE}/Engines/CoreAI/CoreAIProgram.swift",
            "model.loadFunction(named: functionName)",
            "model.loadFunction(name: functionName)",
            "argument label",
        ),
        "a wrong unit of Core AI": (
            f"{MOBILE}/Engines/CoreAI/CoreAIProgram.swift",
            "SpecializationOptions(preferredComputeUnitKind: .neuralEngine)",
            "SpecializationOptions(preferredComputeUnitKind: .cpuAndNeuralEngine)",
            "no member 'cpuAndNeuralEngine'",
        ),
    },
    "S2PBenchProbes": {
        "the wrong actor": (
            "ios_harness/Sources/S2PBenchProbes/DarwinProbes.swift",
            "await MainActor.run { UIApplication.shared.applicationState != .background }",
            "UIApplication.shared.applicationState != .background",
            "property access is 'async'",
        ),
    },
    "S2PBenchApp": {
        "a wait left out": (f"{APP}/BenchScreen.swift", "{ await model.refresh() }", "{ model.refresh() }", "await"),
        "a wrong label": (
            f"{APP}/BenchModel.swift",
            "bundles(in: .documentsDirectory)",
            "bundles(at: .documentsDirectory)",
            "argument label",
        ),
    },
    "an example": {
        "what is not for apps": ("examples/ios/Sources/DrawModel.swift", "opened.name", "opened.drawing", "inaccessible"),
    },
}
"""By the module that they lie in, which is compiled once for all of them."""


@needs_swift
@pytest.mark.parametrize("module", MISTAKES)
def test_mistakes_are_found(tmp_path: Path, module: str) -> None:
    ignored = shutil.ignore_patterns(".build", "build", "Tests")
    for folder in ("ios_harness", "examples/ios"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=ignored)
    for file, right, wrong, _ in MISTAKES[module].values():
        text = (tmp_path / file).read_text()
        assert right in text
        (tmp_path / file).write_text(text.replace(right, wrong, 1))
    done = check(tmp_path)
    assert done.returncode != 0
    for mistake, (_, _, _, found) in MISTAKES[module].items():
        assert found in done.stderr, mistake


DECLARES = re.compile(
    r"(?:@\w+(?:\([^)]*\))? |nonisolated\(unsafe\) )*(?:public|open) (?:final )?"
    r"(?:class|struct|enum|protocol|func|var|let|typealias) (\w+)"
)


def stubs_without_a_page(text: str) -> list[str]:
    """Declarations at the top of a file that no line with Apple's page stands above."""
    lines = text.splitlines()
    missing = []
    for number, line in enumerate(lines):
        declared = DECLARES.match(line)
        above = number - 1
        while above >= 0 and (lines[above].startswith("@") or re.match(r"/// (?!https)", lines[above])):
            above -= 1
        if declared and not lines[above].startswith("/// https://developer.apple.com/"):
            missing.append(declared.group(1))
    return missing


@pytest.mark.parametrize("path", sorted(STUBS.glob("*.swift")), ids=lambda path: path.name)
def test_every_declaration_names_apples_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert stubs_without_a_page(text) == []
    assert len(re.findall(r"^(?:public|open|@|nonisolated)", text, re.MULTILINE)) > 0


def test_a_declaration_without_a_page_is_found() -> None:
    good = "/// https://developer.apple.com/documentation/a\n@available(iOS 17, *)\npublic struct A {}\n"
    assert stubs_without_a_page(good) == []
    assert stubs_without_a_page(good + "\npublic final class B {}\n") == ["B"]
