"""Gradle's files, manifests and resources, which only Android's tools build: their parts fit each other and the code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HARNESS = REPOSITORY / "android_harness"
PROJECTS = (HARNESS, REPOSITORY / "examples" / "android")
MODULES = {"library": HARNESS / "library", "app": HARNESS / "app", "example": REPOSITORY / "examples" / "android" / "app"}
ANDROID = "{http://schemas.android.com/apk/res/android}"
CONFIGURATION = {
    "colorMode", "density", "fontScale", "grammaticalGender", "keyboard", "keyboardHidden", "layoutDirection", "locale", "mcc", "mnc",
    "navigation", "orientation", "screenLayout", "screenSize", "smallestScreenSize", "touchscreen", "uiMode",
}  # fmt: skip
"""https://developer.android.com/guide/topics/manifest/activity-element#config"""
RECREATES = {"orientation", "screenLayout", "screenSize", "smallestScreenSize", "uiMode", "density", "fontScale", "locale"}
"""What changes when a phone is turned, folded, made dark or larger."""


def blocks(text: str) -> dict[str, str]:
    """The outermost blocks of a Kotlin build file by name; braces and quotes must balance.

    Whether the rest is Kotlin, the compiler says in test_kotlin.py, where there is one.
    """
    without = re.sub(r"//.*", "", re.sub(r'"(?:\\.|\$\{[^}]*\}|[^"\\\n])*"', '""', text))
    assert without.count('"') % 2 == 0 and re.search(r'"[^"]', re.sub(r'""', "", without)) is None, "an open text"
    found: dict[str, str] = {}
    depth, start, name = 0, 0, ""
    for place, character in enumerate(without):
        if character == "{":
            if depth == 0:
                name = without[:place].rstrip().rsplit("\n", 1)[-1].strip()
                start = place + 1
            depth += 1
        elif character == "}":
            depth -= 1
            assert depth >= 0, "a brace too many"
            if depth == 0:
                found[name] = without[start:place]
    assert depth == 0, "a brace is open"
    return found


@pytest.mark.parametrize("name", MODULES)
def test_build_files_have_their_parts(name: str) -> None:
    text = (MODULES[name] / "build.gradle.kts").read_text()
    assert {"plugins", "android", "dependencies"} <= set(blocks(text))
    assert re.search(r"compileSdk = 35\b", text) and re.search(r"minSdk = 26\b", text)
    # The language's version and that of the byte code go together, or Kotlin refuses.
    assert text.count("JavaVersion.VERSION_17") == 2 and 'jvmTarget = "17"' in text
    for coordinate in re.findall(r'(?:implementation|api)\("([^"]+)"\)', text):
        assert (
            re.fullmatch(r"[\w.-]+:[\w.-]+:(?:[\w.-]+|\$\{providers\.gradleProperty\(.*)", coordinate)
            or "gradleProperty" in coordinate
        )


def test_mistakes_in_build_files_are_found() -> None:
    for wrong in ("android {", "android { } }", 'plugins { id("x) }\n'):
        with pytest.raises(AssertionError):
            blocks(wrong)


@pytest.mark.parametrize("project", PROJECTS, ids=["harness", "example"])
def test_settings_include_what_there_is(project: Path) -> None:
    text = (project / "settings.gradle.kts").read_text()
    included = re.findall(r'":(\w+)"', re.search(r"include\((.*?)\)", text).group(1))  # type: ignore[union-attr]
    places = dict(re.findall(r'project\(":(\w+)"\)\.projectDir = file\("([^"]+)"\)', text))
    for name in included:
        folder = (project / places.get(name, name)).resolve()
        build = (folder / "build.gradle.kts").read_text()
        for plugin in re.findall(r'id\("([\w.]+)"\)', build):
            assert f'id("{plugin}") version' in text, f"{plugin} of {name} has no version"
        for property_name in re.findall(r'gradleProperty\("([\w.]+)"\)', build):
            assert f"\n{property_name}=" in (project / "gradle.properties").read_text()
    assert (project / "gradlew").stat().st_mode & 0o111
    assert "distributionUrl=" in (project / "gradle/wrapper/gradle-wrapper.properties").read_text()


NPU_FILES = {
    "library": HARNESS / "library/build.gradle.kts",
    "app": MODULES["app"] / "build.gradle.kts",
    "example": MODULES["example"] / "build.gradle.kts",
    "manifest": HARNESS / "library/src/npu/AndroidManifest.xml",
    "usual manifest": HARNESS / "library/src/main/AndroidManifest.xml",
    "harness properties": HARNESS / "gradle.properties",
    "example properties": REPOSITORY / "examples/android/gradle.properties",
    "message": HARNESS / "library/src/main/java/mobile/s2p/Npu.kt",
    "page": REPOSITORY / "docs/devices.md",
}
SWITCH = 'providers.gradleProperty("s2p.npu").get().toBoolean()'


def npu_problems(files: Mapping[str, str]) -> list[str]:
    """What is wrong with the parts that ``s2p.npu`` switches on, and with their being off without it."""
    problems = []
    library = files["library"]
    branches = re.search(r"if \(npu\) \{\n(.*?)\n    \} else \{\n(.*?)\n    \}\n", library, re.DOTALL)
    on, off = branches.groups() if branches else ("", "")
    coordinate = r'implementation\("([\w.:-]+):\$\{providers\.gradleProperty\("([\w.]+)"\)\.get\(\)\}"\)'
    switched = {"org.pytorch:executorch-android-qnn": "s2p.executorch.qnn", "com.qualcomm.qti:qnn-runtime": "s2p.qnn"}
    if dict(re.findall(coordinate, on)) != switched:
        problems.append("with the NPU: other libraries")
    if dict(re.findall(coordinate, off)) != {"org.pytorch:executorch-android": "s2p.executorch"}:
        problems.append("without the NPU: other libraries")
    if f"val npu = {SWITCH}" not in library or library.count("org.pytorch:") != 2:
        problems.append("the library has no switch, or an ExecuTorch outside of it")
    source = re.search(r'if \(npu\) sourceSets \{ getByName\("main"\) \{ manifest\.srcFile\("([^"]+)"\)', library)
    if source is None or (HARNESS / "library" / source.group(1)).resolve() != NPU_FILES["manifest"].resolve():
        problems.append("another manifest")
    for app in ("app", "example"):
        if f"packaging {{ jniLibs.useLegacyPackaging = {SWITCH} }}" not in files[app]:
            problems.append(f"{app}: libraries stay inside of the APK")
    used = [
        (one.get(f"{ANDROID}name"), one.get(f"{ANDROID}required"))
        for application in ElementTree.fromstring(files["manifest"]).findall("application")
        for one in application.findall("uses-native-library")
    ]
    if used != [("libcdsprpc.so", "false")] or "uses-native-library" in files["usual manifest"]:
        problems.append("the system's library is not asked for as it should be")
    properties = [
        dict(line.split("=", 1) for line in files[f"{name} properties"].splitlines() if line.startswith("s2p."))
        for name in ("harness", "example")
    ]
    if properties[0] != properties[1] or properties[0].get("s2p.npu") != "false":
        problems.append("the properties differ, or the NPU is not off")
    for place in ("message", "page"):
        for name, key in switched.items():
            named = set(re.findall(rf"{name}:([\d.]+)", files[place]))
            if named != {properties[0].get(key)}:
                problems.append(f"{place}: another version of {name}")
    return problems


NPU_TEXTS = {name: path.read_text(encoding="utf-8") for name, path in NPU_FILES.items()}


def test_one_property_makes_the_app_one_for_the_npu() -> None:
    assert npu_problems(NPU_TEXTS) == []


@pytest.mark.parametrize(
    ("place", "right", "wrong"),
    [
        ("library", "executorch-android-qnn", "executorch-android"),
        ("library", "com.qualcomm.qti:qnn-runtime", "com.qualcomm.qti:qnn-litert-delegate"),
        ("library", "} else {", "} else if (false) {"),
        ("library", 'gradleProperty("s2p.npu")', 'gradleProperty("s2p.qnn")'),
        ("library", 'gradleProperty("s2p.executorch.qnn")', 'gradleProperty("s2p.executorch")'),
        ("library", "src/npu/AndroidManifest.xml", "src/main/AndroidManifest.xml"),
        ("library", "if (npu) sourceSets", "sourceSets"),
        ("app", SWITCH, "false"),
        ("example", "jniLibs.useLegacyPackaging", "jniLibs.keepDebugSymbols"),
        ("manifest", "libcdsprpc.so", "libadsprpc.so"),
        ("manifest", '"false"', '"true"'),
        ("manifest", "application>", "queries>"),
        ("usual manifest", "<manifest />", "<manifest><application><uses-native-library /></application></manifest>"),
        ("harness properties", "s2p.npu=false", "s2p.npu=true"),
        ("example properties", "s2p.qnn=", "s2p.qnn=1"),
        ("message", "executorch-android-qnn:", "executorch-android-qnn:9"),
        ("message", "qnn-runtime:", "qnn-runtime:9"),
        ("page", "com.qualcomm.qti:qnn-runtime:", "com.qualcomm.qti:qnn-runtime:9"),
    ],
)
def test_mistakes_in_what_the_npu_needs_are_found(place: str, right: str, wrong: str) -> None:
    assert right in NPU_TEXTS[place]
    assert npu_problems({**NPU_TEXTS, place: NPU_TEXTS[place].replace(right, wrong)}) != []


def test_the_native_half_is_built_from_what_there_is() -> None:
    text = (HARNESS / "library" / "build.gradle.kts").read_text()
    path = re.search(r'path = file\("([^"]+)"\)', text)
    assert path is not None
    cmake = (HARNESS / "library" / path.group(1)).resolve().read_text()
    for option in re.findall(r"-D(S2P_\w+)=", text):
        assert re.search(rf"(?:set|option|find_path)\({option}\b", cmake), option
    for source in re.findall(r"[\w/]+\.cpp", cmake):
        assert (HARNESS / source).exists(), source


@pytest.mark.parametrize("name", ["app", "example"])
def test_apps_survive_turning_and_folding_and_may_use_memory(name: str) -> None:
    root = ElementTree.parse(MODULES[name] / "src/main/AndroidManifest.xml").getroot()
    (application,) = root.iter("application")
    assert application.get(f"{ANDROID}largeHeap") == "true"
    # Bundles lie in the app's folders, which a backup of the app would take along.
    assert application.get(f"{ANDROID}allowBackup") == "false"
    package = re.search(r'namespace = "([\w.]+)"', (MODULES[name] / "build.gradle.kts").read_text()).group(1)  # type: ignore[union-attr]
    activities = list(root.iter("activity"))
    assert activities
    for activity in activities:
        changes = set(str(activity.get(f"{ANDROID}configChanges")).split("|"))
        assert RECREATES <= changes <= CONFIGURATION
        source = MODULES[name] / "src/main/java" / package.replace(".", "/") / f"{str(activity.get(f'{ANDROID}name'))[1:]}.kt"
        assert f"class {source.stem} : Activity()" in source.read_text()


def test_only_adb_may_start_a_measurement() -> None:
    root = ElementTree.parse(MODULES["app"] / "src/main/AndroidManifest.xml").getroot()
    (activity,) = (one for one in root.iter("activity") if one.get(f"{ANDROID}name") == ".BenchActivity")
    assert activity.get(f"{ANDROID}permission") == "android.permission.DUMP" and activity.get(f"{ANDROID}exported") == "true"


def test_nothing_is_drawn_or_read_while_it_measures() -> None:
    """What the screen did every second took time from what it measured."""
    screen = (MODULES["app"] / "src/main/java/mobile/s2p/harness/MainActivity.kt").read_text()
    assert "getPss" not in screen and "postDelayed" not in screen
    listener = screen[screen.index("private fun onStep") : screen.index("private fun finished")]
    assert ".add(" not in listener, "curves are drawn afterwards"


def test_names_that_the_core_calls_are_kept() -> None:
    rules = (MODULES["library"] / "consumer-rules.pro").read_text()
    native = "".join(path.read_text() for path in (HARNESS / "jni").glob("*.cpp"))
    for name in {name.replace("/", ".") for name in re.findall(r"mobile/s2p/\w+", native)}:
        assert name in rules, name
    for interface in ("StepListener", "NativeBenchListener", "bench.Sensors", "Engine", "EngineProgram", "Native"):
        assert f"mobile.s2p.{interface} " in rules
