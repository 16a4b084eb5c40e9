"""The Kotlin library, the measuring app and the example: compiled, and run in the Java machine of this computer.

What stands in for a phone is small: Android's classes are declarations, and ExecuTorch's Module answers with what a golden run
recorded. Everything between them is what phones run: Kotlin, JNI (with Java's own checks of its use), the C++ core.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kotlin_check
from s2p_converters.core.packing import pack_nibbles
from s2p_converters.targets.executorch.archive import write_archive
from s2p_runtime.archive import unpack_archive
from s2p_runtime.bundle import Bundle
from s2p_runtime.contract import read_contract
from s2p_runtime.files import list_files, sha256_file
from s2p_runtime.pictures import to_picture
from s2p_runtime.report import BenchReport, Memory
from s2p_runtime.tensors import read_tensors

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures"
BUILD = REPOSITORY / "android_harness" / "build" / "kotlin"
PLANTED = kotlin_check.TYPECHECK / "planted" / "Planted.kt"


@dataclass(frozen=True)
class Compiled:
    folder: Path
    complaints: dict[str, list[str]]


@pytest.fixture(scope="session")
def compiled(folder_lock: Callable[[Path], AbstractContextManager[None]]) -> Compiled:
    """All modules, compiled once for all workers of a test run, and not again while nothing has changed."""
    if kotlin_check.missing():
        pytest.skip(f"Kotlin is not compiled: there is no {', no '.join(kotlin_check.missing())}")
    BUILD.parent.mkdir(exist_ok=True)
    with folder_lock(BUILD):
        said = BUILD / f"{kotlin_check.inputs_digest()}.json"
        if not said.exists():
            for old in [*BUILD.glob("*.json"), *(path for path in BUILD.iterdir() if path.is_dir())]:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            said.write_text(json.dumps(kotlin_check.compile_all(BUILD)))
    return Compiled(BUILD, json.loads(said.read_text()))


def test_every_module_compiles_without_a_word(compiled: Compiled) -> None:
    assert list(compiled.complaints) == [*(module.name for module in kotlin_check.MODULES), *kotlin_check.BUILD_FILES]
    assert {name: said for name, said in compiled.complaints.items() if said and "planted" not in name} == {}


def test_planted_mistakes_are_found(compiled: Compiled) -> None:
    """A wrong name and a wrong type of Android's and ExecuTorch's, what is internal, what needs a coroutine or an opt-in."""
    lines = PLANTED.read_text(encoding="utf-8").splitlines()
    expected = {number for number, line in enumerate(lines, 1) if "// mistake: " in line}
    found = {int(one.split("Planted.kt:")[1].split(":")[0]) for one in compiled.complaints["planted"]}
    assert found == expected and len(expected) == 6


def test_mistakes_in_build_files_are_found(compiled: Compiled) -> None:
    """Their form alone: Gradle's names are not here. :func:`test_every_module_compiles_without_a_word` reads the real ones."""
    (planted,) = kotlin_check.BUILD_FILES["gradle-planted"]
    expected = {n for n, line in enumerate(planted.read_text(encoding="utf-8").splitlines(), 1) if "// mistake: " in line}
    found = {int(line.split(f"{planted.name}.kt:")[1].split(":")[0]) for line in compiled.complaints["gradle-planted"]}
    assert found == expected and len(expected) == 3
    assert {path.name for path in kotlin_check.BUILD_FILES["gradle"]} == {"build.gradle.kts", "settings.gradle.kts"}
    assert len(kotlin_check.BUILD_FILES["gradle"]) == 5


Desktop = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def desktop(compiled: Compiled, runner_folder: Path) -> Desktop:
    """Runs a test of android_harness/typecheck/desktop in a Java machine that checks each use of JNI."""
    if not (runner_folder / "libs2p_jni.so").exists():
        pytest.skip("there is no JDK whose jni.h the library's native half could be built with")
    classes = kotlin_check.classpath(compiled.folder, "desktop", "app", "library", "executorch")

    def run(*words: object, heap: str = "64m", phone: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        described = [f"-Ds2p.{name}={value}" for name, value in (phone or {}).items()]
        settings = [
            *described,
            "-Xcheck:jni",
            f"-Xmx{heap}",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:MaxDirectMemorySize=64m",
        ]
        command = ["java", *settings, f"-Djava.library.path={runner_folder}", "-cp", classes, "mobile.s2p.DesktopKt"]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode in (0, 2), done.stdout + done.stderr
        assert "in native method" not in done.stdout + done.stderr, "JNI is used wrongly"
        return done

    return run


def test_wrong_uses_of_jni_are_found(desktop: Desktop, tmp_path: Path) -> None:
    """What every other test here relies on: Java calls a wrong use by name, and the fixture looks for it."""
    jdk = Path(str(shutil.which("javac"))).resolve().parents[1] / "include"
    library = tmp_path / "libplanted.so"
    source = kotlin_check.TYPECHECK / "planted" / "mistake.cpp"
    subprocess.run(["c++", "-shared", "-fPIC", f"-I{jdk}", f"-I{jdk / 'linux'}", source, "-o", library], check=True)
    with pytest.raises(AssertionError, match="JNI is used wrongly"):
        desktop("jni-mistake", library)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle in a folder whose name JNI's own strings cannot hold."""
    return Path(shutil.copytree(FIXTURES / "ancestral.s2pmobile", tmp_path / "ä \N{GRINNING FACE}" / "a.s2pmobile"))


def test_a_whole_measurement(desktop: Desktop, bundle: Path, tmp_path: Path) -> None:
    assert desktop("bench", bundle, "only", tmp_path).stdout.endswith("passed\n")

    def report(name: str) -> BenchReport:
        return read_contract(tmp_path / name, BenchReport, "s2p-report", 2)

    whole = report("report.json")
    assert whole.validity.fidelity_ok and whole.fidelity[0].latent_max_abs == 0 and whole.fidelity[0].image_max_abs == 0
    assert whole.protocol.threads == 3 and whole.backend["unet"].startswith("executorch AAR")
    assert {sample.milliwatts for sample in whole.energy} == {1648.0}, "412 mA at 4 V, told in microamperes"
    assert whole.validity.foreground and whole.validity.unlocked and whole.validity.not_throttled and whole.events == ()
    assert whole.memory.own_launch is False and whole.memory.peak_bytes is not None
    assert whole.timings_ms.load_phases is not None and set(whole.timings_ms.load_phases["unet"]) == {"first", "cached"}
    away = report("away.json")
    assert {sample.milliwatts for sample in away.energy} == {1648.0}, "the same, told in milliamperes"
    assert away.validity.foreground is False and away.validity.unlocked is None
    assert [event.kind for event in away.events or ()] == ["background"]
    memory = Memory.model_validate_json((tmp_path / "memory.json").read_text())
    assert memory.own_launch and memory.peak_bytes is not None
    apart = report("apart.json")
    assert apart.memory.peak_bytes is None and "memory.peak_bytes" in apart.missing


def test_failures_come_out_as_they_went_in(desktop: Desktop, bundle: Path, tmp_path: Path) -> None:
    assert desktop("failures", bundle, "only", tmp_path).stdout.endswith("passed\n")


def test_an_app_draws_the_golden_picture(desktop: Desktop, bundle: Path, tmp_path: Path) -> None:
    """Steps, previews, cancelling, budgets and threads are looked at in there; the pixels here."""
    run = next(iter(json.loads((bundle / "manifest.json").read_text())["golden"]))
    assert desktop("draw", bundle, run["id"], run["seed"], run["prompt"], tmp_path).stdout.endswith("passed\n")
    rows = [[int(pixel, 16) for pixel in line.split()] for line in (tmp_path / "pixels.txt").read_text().splitlines()]
    pixels = np.array(rows, np.uint32)
    assert (pixels >> 24 == 255).all()
    drawn = np.stack([pixels >> shift & 255 for shift in (16, 8, 0)], axis=-1)
    np.testing.assert_array_equal(drawn, to_picture(read_tensors(bundle / run["path"])["image"]))


def test_an_app_starts_from_a_picture(desktop: Desktop, bundle: Path) -> None:
    """Bitmap to bytes, encoder, the rows from there; a bundle without an encoder is the other one."""
    folder = FIXTURES / "picture.s2pmobile"
    run = json.loads((folder / "manifest.json").read_text())["golden"][0]
    done = desktop("picture", folder, bundle, run["id"], run["seed"], run["prompt"])
    assert done.stdout.endswith("passed\n"), done.stderr


def test_an_app_draws_another_size_of_the_bundle(desktop: Desktop, tmp_path: Path) -> None:
    """A second size as high as the own is wide: the recording has as many values for it."""
    folder = Path(shutil.copytree(FIXTURES / "picture.s2pmobile", tmp_path / "sizes.s2pmobile"))
    manifest = json.loads((folder / "manifest.json").read_text())
    run = manifest["golden"][0]
    latents = {"latent_width": 4, "latent_height": 6, "method": "size_32x48", "check": run["path"]}
    manifest["sizes"].append({"width": 32, "height": 48, **latents})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = desktop("sizes", folder, run["id"], run["prompt"])
    assert done.stdout.endswith("passed\n"), done.stderr


GEN_3 = {"sdk": "34", "soc": "SM8650"}


@pytest.fixture
def npu_bundle(tmp_path: Path, compile_for_chips: Callable[..., Path]) -> Path:
    """As a driver copies it to a phone with an SM8650: the files of the other chip are not there."""
    folder = compile_for_chips(FIXTURES / "ancestral.s2pmobile", tmp_path / "npu.s2pmobile", ("SM8750", "SM8650"))
    shutil.rmtree(folder / "SM8750")
    return folder


def test_the_npu_gets_the_phones_programs_or_the_app_says_what_it_lacks(
    desktop: Desktop, npu_bundle: Path, tmp_path: Path
) -> None:
    run = json.loads((npu_bundle / "manifest.json").read_text())["golden"][0]
    done = desktop("npu", npu_bundle, run["id"], run["seed"], run["prompt"], tmp_path, phone=GEN_3)
    assert done.stdout.endswith("passed\n"), done.stderr
    report = read_contract(tmp_path / "report.json", BenchReport, "s2p-report", 2)
    assert report.validity.fidelity_ok and report.backend["unet"] == "executorch AAR qnn executorch 1.4.1 qairt 2.51.0"
    assert report.bundle_sha256 == sha256_file(npu_bundle / "manifest.json"), "the manifest is that of all chips"
    assert Memory.model_validate_json((tmp_path / "memory.json").read_text()).own_launch


REFUSED_PHONES: dict[str, tuple[dict[str, str], str]] = {
    "another chip": (
        {"sdk": "33", "soc": "SM8550"},
        "and this device has SM8550; convert the checkpoint for that chip, or with",
    ),
    "Android 11": (
        {"sdk": "30", "soc": "SM8650"},
        "and this device does not name its chip, which takes Android 12; convert with",
    ),
    "unnamed": ({"sdk": "34"}, "and this device does not name its chip, which takes Android 12; convert with"),
}


@pytest.mark.parametrize("name", REFUSED_PHONES)
def test_another_phones_bundle_is_refused_by_name(
    desktop: Desktop, compile_for_chips: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    phone, message = REFUSED_PHONES[name]
    whole = compile_for_chips(FIXTURES / "ancestral.s2pmobile", tmp_path / "npu.s2pmobile")
    done = desktop("npu-opens", whole, tmp_path, phone=phone)
    assert done.returncode == 2
    assert f"error: npu.s2pmobile is for the NPU of SM8650, SM8750, {message} --backend xnnpack\n" in done.stderr


def test_of_several_methods_the_first_picture_sizes(desktop: Desktop, bundle: Path) -> None:
    done = desktop("methods", bundle, "only")
    assert done.stdout.endswith("passed\n"), done.stderr


def test_the_app_takes_orders_over_adb_and_refuses_wrong_ones(desktop: Desktop) -> None:
    assert desktop("orders").stdout.endswith("passed\n")


def test_unpacks_what_convert_packs(desktop: Desktop, demo_bundle: Bundle, tmp_path: Path) -> None:
    """The demo model's archive, whose 4-bit weights stand apart. A heap of 24 MB: nothing is in memory as a whole."""
    archive = tmp_path / "demo.zip"
    write_archive(demo_bundle, archive)
    assert desktop("unpack", archive, tmp_path / "demo.s2pmobile", heap="24m").returncode == 0
    names = list_files(demo_bundle.folder)
    assert list_files(tmp_path / "demo.s2pmobile") == names
    assert [n for n in names if (tmp_path / "demo.s2pmobile" / n).read_bytes() != (demo_bundle.folder / n).read_bytes()] == []
    again = desktop("unpack", archive, tmp_path / "demo.s2pmobile")
    assert again.returncode == 2 and again.stderr == "error: demo.s2pmobile exists; delete it or give another place\n"


INDEX: dict[str, Any] = {"format": "s2p-archive", "version": 1, "packed": {}}


def written(
    path: Path,
    more: dict[str, bytes] | None = None,
    index: dict[str, Any] = INDEX,
    source: Path = FIXTURES / "ancestral.s2pmobile",
) -> Path:
    """A bundle as an archive, as the standard library writes it."""
    members = {name: (source / name).read_bytes() for name in list_files(source)} | {"archive.json": json.dumps(index).encode()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (members | (more or {})).items():
            archive.writestr(name, data)
    return path


def _manifest_of(files: dict[str, bytes]) -> dict[str, bytes]:
    entries = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    return {"manifest.json": json.dumps({"format": "s2p-bundle", "version": 1, "files": entries}).encode()}


def _linked(path: Path) -> Path:
    with zipfile.ZipFile(written(path), "a") as archive:
        info = zipfile.ZipInfo("unet")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return path


def _lying(path: Path) -> Path:
    """The directory tells of one byte of a member that holds many: its unpacked size, as four bytes."""
    data = bytearray(written(path).read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (1).to_bytes(4, "little")
    path.write_bytes(data)
    return path


def _doubled(path: Path) -> Path:
    """Two members of the same length and content, of which the second's entry points at the first's bytes."""
    written(path, {"double-1": b"x" * 50, "double-2": b"x" * 50})
    data = bytearray(path.read_bytes())
    first, second = (data.rindex(name) - 46 for name in (b"double-1", b"double-2"))
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)
    return path


BOMB = b"\0" * 30_000_000
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "up": (lambda path: written(path, {"../evil": b"x"}), "a name leaves its folder"),
    "absolute": (lambda path: written(path, {"/tmp/evil": b"x"}), "a name leaves its folder"),
    "backslash": (lambda path: written(path, {"..\\evil": b"x"}), "a name leaves its folder"),
    "manifest up": (lambda path: written(path, _manifest_of({"a/../../evil": b"x"})), "leaves its folder"),
    "link": (_linked, "unet is a link"),
    "overlapping": (_doubled, "members overlap"),
    "bomb": (lambda path: written(path, {**_manifest_of({"zeros": BOMB}), "zeros": BOMB}), "64 times larger unpacked"),
    "bomb in the index": (lambda path: written(path, {"archive.json": b" " * 16_000_000}), "archive.json is too large"),
    "lying size": (_lying, "than the directory says"),
    "altered": (lambda path: written(path, {"unet.pte": b"another"}), "unet.pte"),
    "newer": (
        lambda path: written(path, index={**INDEX, "version": 2}),
        "has format version 2, this app reads 1; update the app",
    ),
    "a bundle's file alone": (lambda path: Path(shutil.copy(FIXTURES / "noise.safetensors", path)), "no directory"),
}


def test_refuses_what_is_wrong_or_malicious(desktop: Desktop, tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    for name, (make, _) in REFUSED.items():
        make(archives / f"{name}.zip")
    said = dict(line.split(": ", 1) for line in desktop("refuse", archives).stdout.splitlines() if ": " in line)
    assert set(said) == set(REFUSED)
    assert {name: said[name] for name, (_, message) in REFUSED.items() if message not in said[name]} == {}
    assert os.listdir(tmp_path) == ["archives"], "nothing is left behind, nothing written elsewhere"


def test_unpacks_as_python_does(desktop: Desktop, tmp_path: Path) -> None:
    archive = written(tmp_path / "a.zip")
    assert desktop("unpack", archive, tmp_path / "kotlin").returncode == 0
    unpack_archive(archive, tmp_path / "python")
    assert list_files(tmp_path / "kotlin") == list_files(tmp_path / "python")


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """A folder in memory, where there is such a place: tens of thousands of files are written."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


def small_bundle(folder: Path) -> Path:
    """The fixture without recordings, which make it large, and without white space: it is opened tens of thousands of times."""
    shutil.copytree(FIXTURES / "ancestral.s2pmobile", folder)
    shutil.rmtree(folder / "golden")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"golden": [], "sizes": manifest["sizes"][:1]}
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if (folder / name).exists()}
    (folder / "manifest.json").write_text(json.dumps(manifest, separators=(",", ":")))
    return folder


def packed_archive(path: Path) -> Path:
    """4-bit weights of two stretches, one of an odd number, as docs/formats.md lays them out."""
    numbers = np.random.default_rng(0).integers(-8, 8, 400).astype(np.int8)
    stretches = [[20, 101], [150, 200]]
    held = np.zeros(numbers.size, bool)
    for offset, length in stretches:
        held[offset : offset + length] = True
    nibbles = b"".join(pack_nibbles(numbers[offset : offset + length]).tobytes() for offset, length in stretches)
    members = {"w.pte.rest": numbers[~held].tobytes(), "w.pte.nibbles": nibbles}
    index = json.dumps({**INDEX, "packed": {"w.pte": stretches}}).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**_manifest_of({"w.pte": numbers.tobytes()}), "archive.json": index, **members}.items():
            archive.writestr(name, data)
    return path


def test_ten_thousand_damaged_archives(
    desktop: Desktop, tmp_path: Path, quick_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of archives, and texts in them with right checksums. How much Java's side asks for is counted in there, for each."""
    bundle = small_bundle(tmp_path / "small.s2pmobile")
    plain, packed, wide = (tmp_path / f"{name}.zip" for name in ("plain", "packed", "wide"))
    written(plain, source=bundle)
    packed_archive(packed)
    with monkeypatch.context() as patched:
        # As for an archive of gigabytes: zip64 fields for every number that has one.
        patched.setattr(zipfile, "ZIP64_LIMIT", 20)
        written(wide, source=bundle)
    assert b"PK\6\6" in wide.read_bytes(), "a zip64 record"
    done = desktop("fuzz-archives", quick_folder / "alone", 10_000, plain, packed, wide)
    assert done.stdout.endswith("passed\n"), done.stderr
    head, *reasons = done.stdout.splitlines()
    found = re.fullmatch(r"refused (\d+) of 10000 and (\d+) of 5000, (\d+) of these as no JSON", head)
    assert found is not None
    damaged, altered, unread = map(int, found.groups())
    # Some bytes mean nothing. A text that is no JSON any more ends in the first reader: not all may.
    assert 5_000 < damaged < 10_000 and 2_500 < altered < 5_000 and 1_000 < unread < altered - 1_000
    said = dict(line.split(": ", 1) for line in reasons if ": " in line)
    assert "packed weights in the wrong order" in said["packed"] and "packed weights of the wrong size" in said["packed"]
    assert "a size is wrong" in said["wide"] and "its directory is wrong" in said["wide"]


def test_ten_thousand_damaged_manifests(desktop: Desktop, quick_folder: Path) -> None:
    """The way of an app's, through JNI and the core; names that leave the folder point at files that are right."""
    bundle = small_bundle(quick_folder / "in" / "a.s2pmobile")
    shutil.copytree(bundle, quick_folder / "outside")
    done = desktop("fuzz-manifests", bundle, quick_folder / "outside", 10_000)
    assert done.stdout.endswith("passed\n"), done.stderr
    refused = int(done.stdout.split()[1])
    assert 5_000 < refused < 10_000


def test_ten_thousand_damaged_vocabularies(desktop: Desktop, quick_folder: Path) -> None:
    bundle = small_bundle(quick_folder / "a.s2pmobile")
    done = desktop("fuzz-vocabularies", bundle, FIXTURES / "ancestral.s2pmobile", "only", 10_000)
    assert done.stdout.endswith("passed\n"), done.stderr
    said = re.findall(r"tokenizer/(\S+): refused (\d+) and drew (\d+) of 5000", done.stdout)
    assert [name for name, _, _ in said] == ["vocab.json", "merges.txt"]
    assert all(int(refused) > 2_500 and int(drawn) > 50 and int(refused) + int(drawn) == 5_000 for _, refused, drawn in said)


def test_fetches_resumes_and_checks(desktop: Desktop, tmp_path: Path) -> None:
    archive = written(tmp_path / "a.zip")
    assert desktop("fetch", archive, sha256_file(archive), tmp_path / "work").stdout.endswith("passed\n")
