"""The commands of docs/devices.md: what they name exists, in our own tools, in the presets and projects, in ExecuTorch's build at its
version, and in the tools of Apple and Google.

``executorch_cmake.json`` has ExecuTorch's options, ``apple_commands.json`` those of Apple's tools, both with where this was read.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from s2p_mobile.cli.app import app
from s2p_runtime.hosts.executorch.qnn.socs import SOCS

REPOSITORY = Path(__file__).resolve().parents[2]
HARNESS = REPOSITORY / "android_harness"
PAGE = (REPOSITORY / "docs" / "devices.md").read_text(encoding="utf-8")
EXECUTORCH = json.loads(Path(__file__).with_name("executorch_cmake.json").read_text())
APPLE = json.loads(Path(__file__).with_name("apple_commands.json").read_text())
PROJECT = yaml.safe_load((REPOSITORY / "ios_harness/App/project.yml").read_text())
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
        for part in re.split(r"\s&&\s|; do\s|; done|;$", line):
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


@functools.cache
def cli_options() -> dict[str, set[str]]:
    """Options by command."""
    group: Any = typer.main.get_command(app)
    options = {}
    for name, command in group.commands.items():
        # The context is that of the complete command: convert has the options of all targets.
        complete = command.make_context(name, [], resilient_parsing=True).command
        options[name] = {option for parameter in complete.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return options


def cli_problems(words: list[str]) -> list[str]:
    """What is wrong with a command line of ``s2p-mobile``."""
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None or name not in cli_options():
        return [] if name is None else [f"no command {name}"]
    known = cli_options()[name] | {"--help"}
    return [f"{name} has no {word}" for word in words if word.startswith("--") and word.split("=")[0] not in known]


def test_our_own_command_has_these_options() -> None:
    assert len(list(_named("s2p-mobile"))) > 10
    assert cli_problems(["bench", "B", "--units"]) == ["bench has no --units"]
    assert cli_problems(["benhc", "B"]) == ["no command benhc"]


def _unknown(words: list[str], known: set[str]) -> list[str]:
    return [f"no option {word}" for word in words if word.startswith("-") and word.split("=")[0] not in known]


def _runner_options(tool: str) -> set[str]:
    usage = (HARNESS / "tools" / f"{tool.replace('-', '_')}.cpp").read_text()
    return set(re.findall(r"--[a-z-]+", usage)) | {"--help"}


SWIFT_USAGE = re.search(
    r'static let usage = """(.*?)"""', (REPOSITORY / "ios_harness/Sources/S2PBench/RunOptions.swift").read_text(), re.DOTALL
).group(1)  # type: ignore[union-attr]
SWIFT_VERBS = set(re.findall(r"s2p-bench (\w+) BUNDLE", SWIFT_USAGE))


def swift_problems(words: list[str]) -> list[str]:
    """Of what the Swift tool and the app on an iPhone read: a verb, a bundle, options."""
    verb = [] if words and words[0] in SWIFT_VERBS else [f"no verb {' '.join(words[:1])}"]
    return verb + _unknown(words, set(re.findall(r"--[a-z-]+", SWIFT_USAGE)))


def runner_problems(tool: str, words: list[str]) -> list[str]:
    """Of the C++ tools; the Swift tool of the same name has verbs."""
    return swift_problems(words) if words and words[0] in SWIFT_VERBS else _unknown(words, _runner_options(tool))


def adb_problems(words: list[str]) -> list[str]:
    app = (HARNESS / "app/src/main/java/mobile/s2p/harness/RunOrder.kt").read_text()
    known: list[str] = re.findall(r'"([a-z-]+)"', re.search(r"KNOWN = setOf\((.*?)\)", app, re.DOTALL).group(1))  # type: ignore[union-attr]
    manifest = (HARNESS / "app/src/main/AndroidManifest.xml").read_text()
    found = [f"adb has no {word}" for word in words[:1] if word not in ADB]
    found += [
        f"the app has no word {words[i + 1]}" for i, word in enumerate(words) if word == "--es" and words[i + 1] not in known
    ]
    for start in [words[words.index("-n") + 1]] if "-n" in words else []:
        package, _, activity = start.partition("/")
        if f'android:name="{activity}"' not in manifest or package != "mobile.s2p.harness":
            found.append(f"no activity {start}")
    return found


def gradlew_problems(words: list[str]) -> list[str]:
    settings = (HARNESS / "settings.gradle.kts").read_text()
    properties = (HARNESS / "gradle.properties").read_text()
    found = []
    for word in words:
        switch = re.fullmatch(r"-P([\w.]+)=.*", word)
        task = re.fullmatch(r":(\w+):assemble(Release|Debug)", word)
        if switch and f"\n{switch.group(1)}=" not in properties:
            found.append(f"no property {switch.group(1)}")
        elif not switch and (task is None or f'":{task.group(1)}"' not in settings):
            found.append(f"no task {word}")
    return found


def gradle_problems(words: list[str]) -> list[str]:
    """The wrapper is made with the version that its own file names."""
    version = re.search(r"gradle-([\d.]+)-bin", (HARNESS / "gradle/wrapper/gradle-wrapper.properties").read_text())
    assert version is not None
    expected = ["wrapper", "--gradle-version", version.group(1)]
    return [] if words == expected else [f"not {' '.join(expected)}"]


def xcodebuild_problems(words: list[str]) -> list[str]:
    """Project and scheme are those of project.yml."""
    known = APPLE["xcodebuild"]
    found = _unknown(words, set(known["options"]))
    for option, right in (("-project", {f"{PROJECT['name']}.xcodeproj"}), ("-scheme", set(PROJECT["schemes"]))):
        found += [f"no {option[1:]} {value}" for value in _values(words, option) if value not in right]
    valued = {"-project", "-scheme", "-configuration", "-destination", "-derivedDataPath"}
    plain = [
        w for i, w in enumerate(words) if not w.startswith("-") and "=" not in w and (i == 0 or words[i - 1] not in valued)
    ]
    return found + [f"no action {word}" for word in plain if word not in known["actions"]]


def _values(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words[:-1]) if word == option]


def devicectl_problems(words: list[str]) -> list[str]:
    """The app's identifier is that of project.yml, and what is behind it are the app's own words."""
    if not words:
        return []
    verb = next((verb for verb in APPLE["devicectl"] if " ".join(words).startswith(verb)), None)
    if verb is None:
        return [f"devicectl has no {' '.join(words[:3])}"]
    main = PROJECT["targets"]["S2PBenchMain"]["settings"]["base"]["PRODUCT_BUNDLE_IDENTIFIER"]
    identifier = re.sub(r"\$\(DEVELOPMENT_TEAM.*\)", "YOUR_TEAM", main)
    rest = words[len(verb.split()) :]
    own = [word for word in rest if word.startswith("org.")]
    found = [f"no app {word}" for word in own if word != identifier]
    found += [
        f"no target {Path(word).stem}" for word in rest if word.endswith(".app") and Path(word).stem not in PROJECT["targets"]
    ]
    if verb == "device process launch":
        at = next(i for i, word in enumerate(rest) if word.startswith("org."))
        rest, told = rest[:at], rest[at + 1 :]
        found += swift_problems(told[1:]) if told[:1] == ["--headless"] else [f"the app takes no {' '.join(told[:1])}"]
    return found + _unknown(rest, set(APPLE["devicectl"][verb]))


def _subcommand_problems(tool: str, words: list[str]) -> list[str]:
    known = APPLE[tool]
    if not words or words[0] not in known:
        return [f"{tool} has no {' '.join(words[:1])}"]
    return _unknown(words, set(known[words[0]]))


def xcrun_problems(words: list[str]) -> list[str]:
    tools: dict[str, Callable[[list[str]], list[str]]] = {
        "devicectl": devicectl_problems,
        "coremlcompiler": lambda rest: _subcommand_problems("coremlcompiler", rest),
        "coreai-build": lambda rest: _subcommand_problems("coreai-build", rest),
    }
    return tools[words[0]](words[1:]) if words and words[0] in tools else [f"xcrun knows no {' '.join(words[:1])}"]


def swift_run_problems(words: list[str]) -> list[str]:
    """``swift run``: a product of the package, and its own words behind it."""
    products = re.findall(r'\.executable\(name: "([\w-]+)"', (REPOSITORY / "ios_harness/Package.swift").read_text())
    at = next((i for i, word in enumerate(words) if word in products), None)
    if words[:1] != ["run"] or at is None:
        return [f"no product in {' '.join(words)}"]
    folders = [folder for folder in _values(words, "--package-path") if not (REPOSITORY / folder / "Package.swift").is_file()]
    return (
        [f"no package {one}" for one in folders]
        + _unknown(words[:at], set(APPLE["swift run"]))
        + swift_problems(words[at + 1 :])
    )


CHECKS: dict[str, Callable[[list[str]], list[str]]] = {
    "cmake": lambda words: cmake_problems(words) if "-B" in words or "--preset" in words else [],
    "s2p-mobile": cli_problems,
    "s2p-bench": lambda words: runner_problems("s2p-bench", words),
    "s2p-run": lambda words: runner_problems("s2p-run", words),
    "adb": adb_problems,
    "gradlew": gradlew_problems,
    "gradle": gradle_problems,
    "xcodebuild": xcodebuild_problems,
    "xcodegen": lambda words: [f"no word {word}" for word in words],
    "xcrun": xcrun_problems,
    "coreai-build": lambda words: _subcommand_problems("coreai-build", words),
    "swift": swift_run_problems,
    "draw": lambda words: swift_problems(["draw", *words]),
}
"""Every program that the page names with words, but for those that only fetch: git, pip, brew, apt-get, and the shell's own."""


def every_problem(found: list[list[str]]) -> dict[str, list[str]]:
    problems = {}
    for words in found:
        check = CHECKS.get(Path(words[0]).name)
        # The options of the device test come in a variable.
        if words[0].startswith("TEST_RUNNER_S2P_BENCH_OPTIONS="):
            problems[" ".join(words)] = swift_problems(["run", *words[0].partition("=")[2].split()])
        elif check is not None:
            problems[" ".join(words)] = check(words[1:])
        elif words[0].startswith("--"):
            problems[" ".join(words)] = _unknown(words[:1], every_option())
    return {line: said for line, said in problems.items() if said}


def every_option() -> set[str]:
    """Of all tools of this project together, and of Apple's compiler: an option that the page names alone is one of these."""
    options = {"--headless", *APPLE["coreai-build"]["compile"]}.union(*cli_options().values())
    return options | _runner_options("s2p-bench") | _runner_options("s2p-run") | set(re.findall(r"--[a-z-]+", SWIFT_USAGE))


def test_every_command_of_the_page_is_right() -> None:
    programs = {Path(words[0]).name for words in COMMANDS}
    assert set(CHECKS) <= programs, "a program that the page does not name any more"
    assert every_problem(COMMANDS) == {}


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("-scheme S2PBench ", "-scheme S2PBenchApp ", "no scheme S2PBenchApp"),
        ("-allowProvisioningUpdates", "-allowProvisioning", "no option -allowProvisioning"),
        ("xcodebuild test", "xcodebuild tests", "no action tests"),
        ("Release-iphoneos/S2PBenchMain.app", "Release-iphoneos/S2PBench.app", "no target S2PBench"),
        ("devicectl list devices", "devicectl devices", "devicectl has no devices"),
        ("--terminate-existing org", "--terminate org", "no option --terminate"),
        ("--domain-identifier org.s2pmobile.bench.", "--domain-identifier org.s2pmobile.", "no app org.s2pmobile.YOUR_TEAM"),
        ("--headless run NAME", "--headless measure NAME", "no verb measure"),
        (
            "--minimum 60 --cooldown 300 --pictures",
            "--minimum-seconds 60 --cooldown 300 --pictures",
            "no option --minimum-seconds",
        ),
        ("OPTIONS='--runs 3", "OPTIONS='--times 3", "no option --times"),
        ("xcrun coremlcompiler compile", "xcrun coremlcompiler build", "coremlcompiler has no build"),
        ("--platform iOS; done", "--os iOS; done", "no option --os"),
        ("`coreai-build compile --help`", "`coreai-build make --help`", "coreai-build has no make"),
        ("--package-path ios_harness", "--package-path swift", "no package swift"),
        ("swift run -c release", "swift run -q release", "no option -q"),
        ("&& xcodegen\n", "&& xcodegen S2PBench\n", "no word S2PBench"),
        ("gradle wrapper --gradle-version 8.9", "gradle wrapper --gradle-version 8.8", "not wrapper --gradle-version 8.9"),
        ("`./gradlew :library:assembleRelease`", "`./gradlew :lib:assembleRelease`", "no task :lib:assembleRelease"),
        ("-Ps2p.npu=true\n", "-Ps2p.qualcomm=true\n", "no property s2p.qualcomm"),
        ("adb tcpip", "adb tcp", "adb has no tcp"),
        ("--es runs 5", "--es times 5", "the app has no word times"),
        ("harness/.BenchActivity", "harness/.MeasureActivity", "no activity mobile.s2p.harness/.MeasureActivity"),
        ("--cores 0-3", "--processors 0-3", "no option --processors"),
        ("s2p-run --low-memory", "s2p-run --cool", "no option --cool"),
        ("(`--wait-cool SECONDS`", "(`--wait-until-cool SECONDS`", "no option --wait-until-cool"),
        ("draw NAME.s2pmobile", "draw --size NAME.s2pmobile", "no option --size"),
    ],
)
def test_mistakes_in_commands_are_found(right: str, wrong: str, problem: str) -> None:
    """At least one for each program."""
    assert right in PAGE
    changed = [words for words in commands(PAGE.replace(right, wrong)) if words not in COMMANDS]
    assert any(problem in said for said in every_problem(changed).values())


def test_chips_are_those_that_there_are_programs_for() -> None:
    rows = re.findall(
        r"^\| `(SM\w+)` \| (.+?) \| V(\d+) \| `libQnnHtpV(\d+)Stub.so`, `libQnnHtpV(\d+)Skel.so` \|$", PAGE, re.MULTILINE
    )
    assert rows == [(soc.name, soc.title, *[str(soc.arch)] * 3) for soc in SOCS.values()]


def _section(heading: str, level: int, page: str) -> str:
    """What stands below a heading, up to the next of its level or above."""
    return re.split(rf"^#{{2,{level}}} ", page.split(f"{'#' * level} {heading}\n")[1], flags=re.MULTILINE)[0]


def minutes(kind: str, page: str) -> float:
    """To read and type what stands between a phone of this kind and a report: its steps, what these link to, and how to measure.

    A hundred words a minute, half of what people read, since they do meanwhile what they read; and a hundred characters a minute, a
    third of what people type.
    """
    steps = _section("From a phone to a report: ten steps", 3, page.split(f"\n## {kind}\n")[1])
    assert re.findall(r"^(\d+)\. ", steps, re.MULTILINE) == [str(number) for number in range(1, 11)]
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-"): line
        for line in re.findall(r"^### (.*)$", page, re.MULTILINE)
    }
    linked = [_section(headings[one], 3, page) for one in re.findall(r"\]\(#([\w-]+)\)", steps)]
    texts = [steps, *linked, _section("Measuring fairly", 2, page)]
    typed = {" ".join(words) for words in commands(steps) if len(words) > 1 and words[0] in {*CHECKS, "pip", "brew", "cd"}}
    assert len(typed) >= 7
    return sum(len(text.split()) for text in texts) / 100 + sum(map(len, typed)) / 100


@pytest.mark.parametrize("kind", ["iPhone and iPad", "Android"])
def test_from_a_phone_to_a_report_in_a_quarter_of_an_hour(kind: str) -> None:
    assert minutes(kind, PAGE) < 15
    # What is added to any part of it counts.
    for part in ("1. ", "- Unplugged, "):
        longer = PAGE.split(f"\n## {kind}\n")
        if part.startswith("- "):
            changed = PAGE.replace(part, part + "word " * 500)
        else:
            changed = f"\n## {kind}\n".join([longer[0], longer[1].replace(part, part + "word " * 500, 1)])
        assert minutes(kind, changed) > 15


def test_what_ends_a_measurement_is_said() -> None:
    """A phone whose screen is off may suspend the runner, and airplane mode ends adb over Wi-Fi: the page once asked for both."""
    advice = " ".join(_section("Measuring fairly", 2, PAGE).split())
    assert "The screen stays on and unlocked: a phone that sleeps may suspend what it measures." in advice
    assert "No airplane mode while adb runs over Wi-Fi" in advice
    assert not re.search(r"(?i)screen off|in airplane mode|switch on airplane mode", PAGE)


def test_the_app_is_where_the_page_says() -> None:
    """The artifact of a workflow is a zip that needs an account, with the folders of what was put into it."""
    workflow = (REPOSITORY / ".github/workflows/android.yml").read_text()
    (apk,) = re.findall(
        r"--apk (\S+\.apk)", _section("From a phone to a report: ten steps", 3, PAGE.split("\n## Android\n")[1])
    )
    assert f"          path: |\n            {apk}\n" in workflow and "          name: s2p-harness\n" in workflow
    step = next(line for line in PAGE.split("\n## Android\n")[1].split("\n3. ")[1].split("\n4. ")[:1])
    assert all(word in step for word in ("Sign in to GitHub", "artifact `s2p-harness`", "a zip; unpack it", f"`{apk}`"))


def test_the_engine_has_no_choice_of_checks_and_the_page_says_so() -> None:
    """The runner looks through programs; ExecuTorch's library for Android has no function that would."""
    runner = (HARNESS / "executorch/executorch_backend.cpp").read_text()
    assert "Verification::InternalConsistency" in runner
    stubs = (HARNESS / "typecheck/stubs/executorch.kt").read_text()
    assert "fun load(modelPath: String?, loadMode: Int = LOAD_MODE_FILE, numThreads: Int = 0): Module" in stubs
    page = " ".join(PAGE.split())
    assert "(`InternalConsistency`), too. ExecuTorch's AAR does not, and offers no choice" in page
