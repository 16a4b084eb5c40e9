"""A stand-in for ``xcrun devicectl``: one or more devices whose app container is a folder, and a harness app that is scripted.

Environment: ``S2P_STANDIN`` names a folder with ``config.json``. Its keys: ``devices`` (rows of ``list devices``), ``apps``
(installed identifiers), ``no_devicectl``, ``refuse`` (verb -> the error that devicectl gives), ``lost_during_run``,
``app`` (what the app does: ``error`` text, ``signal``, ``report`` text in place of the good one, ``silent``, ``endless``, ``units``:
the same for single compute units). A Core AI bundle is reported as ``CoreAIBackend.swift`` does: specialisation apart, no placement.
``log.txt`` collects the calls. Errors and answers have the form of devicectl's ``--json-output``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

STATE = Path(os.environ["S2P_STANDIN"])
CONTAINER = STATE / "container"
REPORT = Path(__file__).resolve().parents[1] / "fixtures" / "report.json"
PNG = b"\x89PNG\r\n\x1a\nnot looked into"


def _option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def _answer(arguments: list[str], result: dict[str, Any] | None, error: str = "") -> int:
    document: dict[str, Any] = {"info": {"outcome": "failed" if result is None else "success", "jsonVersion": 2}}
    if result is None:
        cause = {"code": 1, "domain": "cause", "userInfo": {"NSLocalizedDescription": {"string": error}}}
        outer = {"NSLocalizedDescription": {"string": "The operation failed."}, "NSUnderlyingError": {"error": cause}}
        document["error"] = {"code": 1, "domain": "com.apple.dt.CoreDeviceError", "userInfo": outer}
        sys.stderr.write(f"ERROR: The operation failed.\n    {error}\n")
    else:
        document["result"] = result
    Path(_option(arguments, "--json-output")).write_text(json.dumps(document))
    return 1 if result is None else 0


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def _app(words: list[str], app: dict[str, Any]) -> int:
    """The measuring app as docs/devices.md describes its launch without the screen."""
    documents = CONTAINER / "Documents"
    if words[:2] == ["--headless", "memory"]:
        return _memory(documents / words[words.index("--out") + 1], app)
    for name in ("report.json", "error.txt"):
        (documents / name).unlink(missing_ok=True)
    assert words[:2] == ["--headless", "run"]
    pairs = [word for word in words[3:] if word not in ("--stage", "--no-stage")]
    options = dict(zip(pairs[::2], pairs[1::2], strict=True))
    unit = options.get("--compute-unit")
    app = {**app, **app.get("units", {}).get(unit, {})}
    _say("some library: warming up", "s2p phase memory", "s2p phase fidelity", "s2p phase warm-up")
    if app.get("endless"):
        time.sleep(60)
    if "signal" in app:
        _say(f"App terminated due to signal {app['signal']}.")
        return 1
    if "error" in app:
        (documents / "error.txt").write_text(f"error: {app['error']}\n")
        return 2
    if app.get("silent"):
        return 0
    _say("s2p phase cool-down", "s2p phase timing")
    for _ in range(int(options["--runs"])):
        _say("s2p picture 812.50")
    report = json.loads(REPORT.read_text())
    text = (documents / words[2] / "manifest.json").read_bytes()
    manifest = json.loads(text)
    report["bundle_name"] = manifest["name"]
    report["bundle_sha256"] = hashlib.sha256(text).hexdigest()
    report["harness"], report["target"] = "ios", manifest["target"]
    report["protocol"]["runs"] = int(options["--runs"])
    report["protocol"]["minimum_seconds"] = float(options["--minimum"])
    if unit is not None and "=" not in unit:
        # What this phone would do: the Neural Engine is the fastest, and no operator runs on what was not asked for.
        report["compute_units"] = dict.fromkeys(report["compute_units"], unit)
        report["summary_ms"]["unet_call"]["p50"] = {"neural-engine": 25.0, "gpu": 75.0, "all": 50.0}[unit]
        if unit == "gpu":
            report["placement"] = [{**one, "preferred": "gpu"} for one in report["placement"]]
    if manifest["target"] == "coreai":
        phases = {"specialise": 41000.0, "first": 120.0, "cached": 80.0}
        report["placement"], report["timings_ms"]["load_phases"] = [], {"unet": phases}
    report["validity"]["fidelity_ok"] = app.get("faithful", True)
    (documents / options["--out"]).write_text(app.get("report", json.dumps(report)))
    for fidelity in report["fidelity"]:
        _copy_bytes(documents / options["--pictures"] / f"{fidelity['golden_id']}.png")
    return 0 if app.get("faithful", True) else 1


def _memory(report: Path, app: dict[str, Any]) -> int:
    """The launch that measures memory alone and completes the report."""
    _say("s2p phase memory")
    if "memory_signal" in app:
        _say(f"App terminated due to signal {app['memory_signal']}.")
        return 1
    document = json.loads(report.read_text())
    document["memory"] = {**document["memory"], "peak_bytes": 123_456_789, "own_launch": True}
    report.write_text(json.dumps(document))
    return 0


def _copy_bytes(target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(PNG)


def _launch(arguments: list[str], config: dict[str, Any]) -> int:
    refusal = config.get("refuse", {}).get("launch")
    if refusal:
        _say("ERROR: The application failed to launch. (com.apple.dt.CoreDeviceError error 10002)", f"    {refusal}")
        return 1
    place = arguments.index("--terminate-existing") + 1
    identifier, words = arguments[place], arguments[place + 1 :]
    (CONTAINER / "Documents").mkdir(parents=True, exist_ok=True)
    _say(f"Launched application with {identifier} bundle identifier.", "Waiting for the application to terminate…")
    if config.get("lost_during_run"):
        (STATE / "lost").touch()
        _say("ERROR: The connection was interrupted. (com.apple.Mercury.error error 1000)")
        return 1
    return _app(words, config.get("app", {}))


def main(arguments: list[str]) -> int:
    config = json.loads((STATE / "config.json").read_text())
    with (STATE / "log.txt").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    if config.get("no_devicectl"):
        sys.stderr.write('xcrun: error: unable to find utility "devicectl", not a developer tool or in PATH\n')
        return 72
    if arguments == ["--find", "devicectl"]:
        print("/Applications/Xcode.app/Contents/Developer/usr/bin/devicectl")
        return 0
    assert arguments[0] == "devicectl"
    if arguments[1:3] == ["list", "devices"]:
        return _answer(arguments, {"devices": config["devices"]})
    verb = arguments[3]
    if verb == "launch" or arguments[2:4] == ["process", "launch"]:
        return _launch(arguments, config)
    kind = {"info": "apps", "install": "install", "copy": arguments[3]}[arguments[2]]
    if (STATE / "lost").exists():
        return _answer(arguments, None, "The device is not connected.")
    if kind in config.get("refuse", {}):
        return _answer(arguments, None, config["refuse"][kind])
    if kind == "apps":
        return _answer(arguments, {"apps": [{"bundleIdentifier": app, "name": app} for app in config["apps"]]})
    if kind == "install":
        config["apps"].append("org.s2pmobile.bench")
        (STATE / "config.json").write_text(json.dumps(config))
        return _answer(arguments, {"installedApplications": []})
    source, destination = _option(arguments, "--source"), _option(arguments, "--destination")
    assert _option(arguments, "--domain-type") == "appDataContainer"
    if kind == "to":
        _copy(Path(source), CONTAINER / destination)
    elif not (CONTAINER / source).exists():
        return _answer(arguments, None, f"The file “{Path(source).name}” couldn’t be opened because there is no such file.")
    else:
        _copy(CONTAINER / source, Path(destination))
    return _answer(arguments, {"files": []})


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
