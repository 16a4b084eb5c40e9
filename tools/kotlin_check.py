"""Compiles the Kotlin of this repository against declarations of Android and ExecuTorch, where Android's own tools are not installed.

The compiler is the one inside of the package ``kotlin-jupyter-kernel``; Java comes from the system. Modules that Gradle builds apart
are compiled apart here: what is internal to the library is not seen by apps.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

REPOSITORY = Path(__file__).resolve().parents[1]
HARNESS = REPOSITORY / "android_harness"
TYPECHECK = HARNESS / "typecheck"
LIBRARY = HARNESS / "library"
APP = HARNESS / "app"
EXAMPLE = REPOSITORY / "examples" / "android" / "app"
BENCH_OPT_IN = "-opt-in=mobile.s2p.bench.BenchApi"


def kotlin_jars() -> Path | None:
    """The folder of the compiler's jars; None: something is missing, see :func:`missing`."""
    spec = importlib.util.find_spec("run_kotlin_kernel")
    if spec is None or spec.origin is None or missing():
        return None
    return Path(spec.origin).parent / "jars"


def missing() -> list[str]:
    """What is not installed of the tools that are needed."""
    tools = [tool for tool in ("java", "javac") if shutil.which(tool) is None]
    return tools + ([] if importlib.util.find_spec("run_kotlin_kernel") else ["kotlin-jupyter-kernel"])


@dataclass(frozen=True)
class Module:
    """Sources that are compiled together.

    Attributes:
        uses: modules before it that it sees.
        friends: modules whose internals it sees, too.
        options: more of the compiler's.
    """

    name: str
    sources: Path
    uses: tuple[str, ...] = ()
    friends: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


MODULES = (
    Module("executorch", TYPECHECK / "stubs"),
    Module("library", LIBRARY / "src/main/java", ("executorch",), options=("-Xexplicit-api=strict",)),
    Module("app", APP / "src/main/java", ("library",), options=(BENCH_OPT_IN,)),
    Module("example", EXAMPLE / "src/main/java", ("library",)),
    Module("desktop", TYPECHECK / "desktop", ("library", "executorch"), friends=("library",)),
    Module("planted", TYPECHECK / "planted", ("library", "executorch"), options=("-Xexplicit-api=strict",)),
)
"""The last one holds mistakes: what finds none in it finds none anywhere."""

BUILD_FILES = {
    "gradle": sorted(
        path for project in (HARNESS, EXAMPLE.parent) for part in ("", "*/") for path in project.glob(f"{part}*.gradle.kts")
    ),
    "gradle-planted": [TYPECHECK / "planted" / "planted.gradle.kts"],
}
"""Gradle's files, which are Kotlin, too, and some with mistakes."""


def compile_all(work: Path, modules: tuple[Module, ...] = MODULES) -> dict[str, list[str]]:
    """Compile ``modules``, in this order, into folders of ``work``, and read Gradle's files.

    Returns:
        By module its errors and warnings, a line each, ``FILE:LINE:COLUMN: error: ...`` from the repository on. Of Gradle's files
        none that says that a name is unknown: Gradle's own are not here.

    Raises:
        FileNotFoundError: no compiler.
        RuntimeError: the compiler itself failed.
    """
    jars = kotlin_jars()
    if jars is None:
        raise FileNotFoundError(", ".join(missing()))
    _compile_stubs(work)
    words: list[str] = []
    for module in modules:
        words += [*(["--"] if words else []), module.name, *_arguments(module, work, jars)]
    for name, files in BUILD_FILES.items():
        words += [
            "--",
            name,
            "-no-stdlib",
            "-no-reflect",
            "-cp",
            str(_only(jars, "kotlin-stdlib-*.jar")),
            "-d",
            str(work / name),
        ]
        words += [str(_as_function(file, work / f"{name}-source", index)) for index, file in enumerate(files)]
    command = ["java", "-Xmx1200m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", str(_compiler(jars))]
    source = str(TYPECHECK / "KotlinCompile.java")
    done = subprocess.run([*command, source, *words], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if done.returncode:
        raise RuntimeError(done.stderr)
    parts = [part.partition("\n") for part in re.split(r"^== ", done.stderr, flags=re.MULTILINE)[1:]]
    return {name: [line for line in text.splitlines() if _counts(name, line)] for name, _, text in parts}


def _counts(module: str, line: str) -> bool:
    unknown = module in BUILD_FILES and "error: unresolved reference" in line
    return re.search(r"\b(error|warning): ", line) is not None and not unknown


def _as_function(build_file: Path, folder: Path, index: int) -> Path:
    """A script as the body of a function, which the compiler takes without what Gradle adds; lines keep their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{'-'.join(build_file.relative_to(REPOSITORY).parts)}.kt"
    file.write_text(f"fun file{index}() {{ {build_file.read_text(encoding='utf-8')}\n}}\n", encoding="utf-8")
    return file


def _compiler(jars: Path) -> Path:
    return _only(jars, "kotlin-jupyter-kernel-*-all.jar")


def _arguments(module: Module, work: Path, jars: Path) -> list[str]:
    path = [work / "stubs", work / "coroutines.jar", _only(jars, "kotlin-stdlib-*.jar"), *(work / name for name in module.uses)]
    friends = [f"-Xfriend-paths={','.join(str(work / name) for name in module.friends)}"] if module.friends else []
    settings = ["-no-stdlib", "-no-reflect", "-jvm-target", "17", "-module-name", module.name]
    sources = [str(source) for source in sorted(module.sources.rglob("*.kt"))]
    classpath = ":".join(str(one) for one in path)
    return [*settings, *module.options, *friends, "-cp", classpath, "-d", str(work / module.name), *sources]


def classpath(work: Path, *modules: str) -> str:
    """What Java needs to run these modules."""
    jars = kotlin_jars()
    assert jars is not None
    return ":".join(
        str(one)
        for one in [*(work / m for m in modules), work / "stubs", work / "coroutines.jar", _only(jars, "kotlin-stdlib-*.jar")]
    )


def _only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def _compile_stubs(work: Path) -> None:
    """Android's declarations, the apps' resources by name, and the coroutines that are inside of the compiler's jar."""
    jars = kotlin_jars()
    assert jars is not None
    sources = work / "stubs-source"
    named = {**dict(_stub_classes()), **{f"{package}.R": resources(module) for package, module in PACKAGES.items()}}
    for name, body in named.items():
        file = sources / (name.replace(".", "/") + ".java")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"package {name.rpartition('.')[0]};\n{body}", encoding="utf-8")
    _extract_coroutines(_compiler(jars), work / "coroutines.jar")
    files = [str(file) for file in sorted(sources.rglob("*.java"))]
    command = ["javac", "-proc:none", "-nowarn", "-d", str(work / "stubs"), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)


def _stub_classes() -> Iterator[tuple[str, str]]:
    text = (TYPECHECK / "stubs" / "android.java").read_text(encoding="utf-8")
    for part in re.split(r"^// file ", text, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        yield name.strip(), body


PACKAGES = {"mobile.s2p.harness": APP, "mobile.s2p.example": EXAMPLE}
"""Packages of apps whose texts are resources."""


def resources(module: Path) -> str:
    """The class ``R`` of a module, from its texts."""
    names = [one.get("name") for one in ElementTree.parse(module / "src/main/res/values/strings.xml").getroot()]
    numbers = ", ".join(f"{name} = {index}" for index, name in enumerate(names, 1))
    return f"public final class R {{ public static final class string {{ public static final int {numbers}; }} }}\n"


def _extract_coroutines(jar: Path, out: Path) -> None:
    if out.exists():
        return
    with zipfile.ZipFile(jar) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            if name.startswith(("kotlinx/coroutines/", "META-INF/kotlinx-coroutines")) and not name.endswith("/"):
                target.writestr(name, source.read(name))


def inputs_digest() -> str:
    """Of everything that the compilation reads, so that it need not be repeated."""
    digest = hashlib.sha256()
    folders = [TYPECHECK, LIBRARY / "src", APP / "src", EXAMPLE / "src", Path(__file__), *BUILD_FILES["gradle"]]
    for folder in folders:
        for file in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if file.is_file():
                digest.update(str(file.relative_to(REPOSITORY)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
