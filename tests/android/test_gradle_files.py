"""Gradle's files, manifests and resources, which only Android's tools build: their parts fit each other and the code."""

from __future__ import annotations

import re
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
    """The outermost blocks of a Kotlin build file by name; braces and quotes must balance."""
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
