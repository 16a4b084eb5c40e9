"""The files that Xcode projects are made from. XcodeGen takes an unknown key without a word: each is held against its list."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
KEYS: dict[str, list[str]] = json.loads(Path(__file__).with_name("xcodegen_keys.json").read_text())
PROJECTS = ("ios_harness/App/project.yml", "examples/ios/project.yml")


def problems(document: dict[str, Any], folder: Path) -> list[str]:
    """What XcodeGen would leave out, or not find."""
    found: list[str] = []

    def keys(kind: str, fields: Any, where: str) -> None:
        found.extend(f"{where}: {kind} has no {key}" for key in fields if key not in KEYS[kind])

    keys("project", document, "project")
    keys("options", document.get("options", {}), "options")
    keys("settings", document.get("settings", {}), "settings")
    targets, packages = document["targets"], document.get("packages", {})
    for name, package in packages.items():
        keys("package", package, name)
        manifest = folder / package["path"] / "Package.swift"
        products = re.findall(r'\.library\(name: "(\w+)"', manifest.read_text()) if manifest.is_file() else []
        for target, fields in targets.items():
            for one in fields.get("dependencies", ()):
                if one.get("package") == name and one.get("product") not in products:
                    found.append(f"{target}: package {name} has no product {one.get('product')}")
    for name, target in targets.items():
        keys("target", target, name)
        keys("settings", target.get("settings", {}), name)
        for plist in ("info", "entitlements"):
            keys("plist", target.get(plist, {}), f"{name}.{plist}")
        keys("target scheme", target.get("scheme", {}), f"{name}.scheme")
        found += [f"{name}: there is no folder {path}" for path in target["sources"] if not (folder / path).is_dir()]
        for one in target.get("dependencies", ()):
            keys("dependency", one, name)
            if "target" in one and one["target"] not in targets:
                found.append(f"{name}: there is no target {one['target']}")
    for name, scheme in document.get("schemes", {}).items():
        keys("scheme", scheme, name)
        for action in ("build", "run", "test"):
            keys(action, scheme.get(action, {}), f"{name}.{action}")
            found += [
                f"{name}: there is no target {one}" for one in scheme.get(action, {}).get("targets", ()) if one not in targets
            ]
    return found


def read(path: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((REPOSITORY / path).read_text())
    return document


@pytest.mark.parametrize("path", PROJECTS)
def test_every_key_is_one_that_xcodegen_knows(path: str) -> None:
    assert problems(read(path), (REPOSITORY / path).parent) == []


@pytest.mark.parametrize("path", PROJECTS)
def test_an_identifier_belongs_to_one_team(path: str) -> None:
    """The second team that registers a fixed one gets an error."""
    document = read(path)
    settings = [document.get("settings", {}), *(target.get("settings", {}) for target in document["targets"].values())]
    identifiers = [
        one["base"]["PRODUCT_BUNDLE_IDENTIFIER"] for one in settings if "PRODUCT_BUNDLE_IDENTIFIER" in one.get("base", {})
    ]
    assert identifiers and all("$(DEVELOPMENT_TEAM" in one for one in identifiers)


def test_the_device_test_measures_a_release_build() -> None:
    (scheme,) = read("ios_harness/App/project.yml")["schemes"].values()
    assert scheme["test"]["config"] == scheme["run"]["config"] == "Release"
    assert scheme["test"]["debugEnabled"] is False and scheme["run"]["debugEnabled"] is False


def test_mistakes_are_found() -> None:
    good, folder = read(PROJECTS[0]), (REPOSITORY / PROJECTS[0]).parent
    scheme = copy.deepcopy(good)
    scheme["targets"]["S2PBenchMain"]["scheme"] = {"run": {"config": "Release"}, "testTargets": ["S2PBenchDeviceTests"]}
    product = copy.deepcopy(good)
    product["targets"]["S2PBenchMain"]["dependencies"][0]["product"] = "S2PBenches"
    target = copy.deepcopy(good)
    target["schemes"]["S2PBench"]["test"]["targets"] = ["DeviceTests"]
    assert problems(scheme, folder) == ["S2PBenchMain.scheme: target scheme has no run"]
    assert problems(product, folder) == ["S2PBenchMain: package S2PMobile has no product S2PBenches"]
    assert problems(target, folder) == ["S2PBench: there is no target DeviceTests"]


def test_the_repository_is_a_package_of_the_same_library() -> None:
    """Swift's package manager looks for a manifest at the root of a repository alone."""
    root, own = (REPOSITORY / "Package.swift").read_text(), (REPOSITORY / "ios_harness/Package.swift").read_text()
    (path,) = re.findall(r'\.target\(name: "S2PMobile", path: "([\w/]+)"\)', root)
    assert (REPOSITORY / path).resolve() == REPOSITORY / "ios_harness/Sources/S2PMobile"
    for setting in (r"platforms: \[(.*)\]", r"swiftLanguageModes: \[(.*)\]", r"swift-tools-version: (.*)"):
        assert re.findall(setting, root) == re.findall(setting, own) != []


def test_the_page_takes_a_stranger_past_developer_mode() -> None:
    """Without the switch no app of one's own starts on iOS 16 and newer; it stands before what needs it."""
    page = (REPOSITORY / "docs/devices.md").read_text(encoding="utf-8")
    steps = re.findall(r"^(\d+)\. (.*)", page[page.index("## iPhone and iPad") : page.index("### From the desk")], re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, 11))
    (switch,) = [int(number) for number, words in steps if "Developer Mode" in words]
    (measure,) = [int(number) for number, words in steps if "s2p-mobile bench" in words]
    assert switch < measure


def test_the_documentation_lists_all_that_is_public() -> None:
    sources = REPOSITORY / "ios_harness/Sources/S2PMobile"
    text = "".join(path.read_text() for path in sorted(sources.rglob("*.swift")))
    public = set(
        re.findall(r"^public (?:final class|struct|enum|protocol|actor|func|let|var|typealias) (\w+)", text, re.MULTILINE)
    )
    topics = set(re.findall(r"^- ``(\w+)``", (sources / "S2PMobile.docc/S2PMobile.md").read_text(), re.MULTILINE))
    assert public == topics == {"Pipeline", "Step", "Picture", "ComputeUnit", "BundleStore", "S2PError"}


def _swift(path: str, head: str) -> str:
    """A declaration from the line that begins with ``head`` to the brace below its beginning."""
    text = (REPOSITORY / "ios_harness/Sources" / path).read_text()
    found = re.search(rf"^( *){re.escape(head)}.*?^\1}}$", text, re.MULTILINE | re.DOTALL)
    assert found is not None, head
    return found.group()


def test_a_device_that_is_measured_stays_awake() -> None:
    """The timer that dims the screen is off before anything is measured, whoever asked for it, and on again where people go on."""
    off, on = "UIApplication.shared.isIdleTimerDisabled = true", "UIApplication.shared.isIdleTimerDisabled = false"
    device_test = _swift("S2PBenchApp/BenchApp.swift", "public static func measure(words:")
    assert device_test.index(off) < device_test.index(f"defer {{ {on} }}") < device_test.index("for bundle in")
    driven = _swift("S2PBenchApp/BenchApp.swift", "private func runHeadlessIfAsked(")
    assert driven.index(off) < driven.index("HeadlessRun.perform(")
    screen = _swift("S2PBenchApp/BenchModel.swift", "func start(")
    assert screen.index(off) < screen.index("await measure(bundle)") < screen.index(on)


def test_bundles_stay_out_of_backups() -> None:
    """The folder when it is made, each bundle before anybody hears of it, and those that a person copied into Documents."""
    store = "S2PMobile/API/BundleStore.swift"
    assert "values.isExcludedFromBackup = true" in _swift(store, "package static func keepOutOfBackups(")
    assert "Self.keepOutOfBackups(self.folder)" in _swift(store, "package init(folder:")
    unpack = _swift(store, "private func unpack(")
    assert unpack.index("Self.keepOutOfBackups(bundle)") < unpack.rindex("return bundle")
    driven = _swift("S2PBenchApp/BenchApp.swift", "private func runHeadlessIfAsked(")
    assert driven.index("HeadlessRun.keepBundlesOutOfBackups(in: documents)") < driven.index("guard let options")


def test_the_report_is_safe_before_the_engine_is_asked_where_operators_run() -> None:
    """Core ML looks at the programs once more, and memory may run out there: nothing is loaded then, and the report is written."""
    run = _swift("S2PBench/BenchSession.swift", "package func run(")
    unload, write = run.index("await pipeline.unload()"), run.index("try write(try encodeContract(report), to: reportPath)")
    assert run.index("runner.run(goldenRuns:") < unload < write < run.index("await runner.placed(report)")
