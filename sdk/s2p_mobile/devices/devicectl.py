"""Apple's ``xcrun devicectl``: one chosen device, its apps and their files, with errors that say what to do.

devicectl writes what a program may rely on into its JSON output file: ``result`` when it worked, else ``error``. Its
terminal output is for people; only two of its sentences are looked for in it, by :class:`Launch`.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2p_runtime.errors import S2PError

_LOCKED = ("unlocked", "(locked)", "is locked", "passcode")
_LOST = (
    "not connected",
    "disconnected",
    "unavailable",
    "connection was interrupted",
    "connection was invalidated",
    "lost",
    "tunnel",
)
_UNTRUSTED = ("not been explicitly trusted", "invalid code signature", "inadequate entitlements")
_ABSENT = ("no such file", "does not exist", "couldn’t be opened", "couldn't be opened", "file not found")


def find_xcrun(program: str | Path | None) -> str:
    """The xcrun program: the given one, or the one on PATH.

    Raises:
        S2PError: there is none, or it knows no devicectl.
    """
    found = shutil.which(str(program or "xcrun"))
    if found is None:
        raise S2PError(
            f"no xcrun at {program or 'PATH'}",
            "measuring an iPhone needs a Mac: install Xcode 16 from the App Store and open it once",
        )
    known = subprocess.run([found, "--find", "devicectl"], capture_output=True, text=True, errors="replace", check=False)
    if known.returncode != 0:
        raise S2PError(
            "this xcrun has no devicectl",
            "install Xcode 16 (the command line tools are not enough), then run sudo xcode-select -s /Applications/Xcode.app",
        )
    return found


@dataclass(frozen=True)
class Launch:
    """How an app that was launched with its console ended.

    Attributes:
        started: whether it ran at all.
        signal: that ended it, None when none did.
        message: devicectl's error, or else its last line.
    """

    started: bool
    signal: int | None
    message: str


class Device:
    """One device behind devicectl."""

    def __init__(self, xcrun: str, udid: str, name: str) -> None:
        self._xcrun = xcrun
        self.udid, self.name = udid, name

    @classmethod
    def connect(cls, xcrun: str, udid: str | None) -> Device:
        """The iPhone or iPad with this UDID (or devicectl identifier), or the only one within reach.

        Raises:
            S2PError: none, several without a choice, or one that is not paired or out of reach.
        """
        listing = _result(_run(xcrun, ["list", "devices"]), "list the devices")
        rows = [_Row.read(row) for row in _list(listing, "devices")]
        phones = [row for row in rows if row.platform in ("iOS", "iPadOS")]
        if udid is not None:
            chosen = next((row for row in phones if udid in (row.udid, row.identifier)), None)
            if chosen is None:
                there = ", ".join(f"{row.udid} ({row.name})" for row in phones) or "none"
                raise S2PError(f"no device {udid} is known to Xcode", f"there is {there}")
        else:
            reachable = [row for row in phones if row.reachable]
            if not phones:
                raise S2PError("no iPhone or iPad is connected", "connect one, unlock it and answer Trust on its screen")
            if len(reachable) > 1:
                there = ", ".join(f"{row.udid} ({row.name})" for row in reachable)
                raise S2PError(f"several devices are connected: {there}", "choose with `device=ios:UDID`", "device")
            chosen = reachable[0] if reachable else phones[0]
        if not chosen.paired:
            raise S2PError(f"{chosen.name} does not trust this Mac", "unlock it, answer Trust on its screen and try again")
        if not chosen.reachable:
            raise S2PError(
                f"{chosen.name} is out of reach", "connect it by cable or bring it into this Mac's Wi-Fi, and unlock it"
            )
        return cls(xcrun, chosen.udid, chosen.name)

    def apps(self) -> list[str]:
        """Identifiers of the installed apps.

        Raises:
            S2PError: the device went away or refuses.
        """
        found = _list(self._device(["info", "apps"], "list its apps"), "apps")
        return [str(app["bundleIdentifier"]) for app in found if isinstance(app, dict) and "bundleIdentifier" in app]

    def install(self, app: Path) -> None:
        """Install a built ``.app``.

        Raises:
            S2PError: the device went away or refuses.
        """
        self._device(["install", "app"], f"install {app.name}", str(app))

    def push(self, identifier: str, source: Path, destination: str) -> None:
        """Copy a file or folder into an app's container.

        Raises:
            S2PError: no space, the device went away or refuses.
        """
        self._device(["copy", "to", *_container(identifier)], f"take {source.name}", *_places(str(source), destination))

    def pull(self, identifier: str, source: str, destination: Path) -> bool:
        """Copy a file from an app's container; false when it is not there.

        Raises:
            S2PError: the device went away or refuses.
        """
        done = _run(self._xcrun, self._arguments(["copy", "from", *_container(identifier)], _places(source, str(destination))))
        if done.error is not None and _speaks_of(done.error, _ABSENT):
            return False
        _result(done, f"hand over {source}", self.name)
        return destination.is_file()

    def launch(self, identifier: str, words: Sequence[str], on_line: Callable[[str], None], limit_seconds: float) -> Launch:
        """Launch an app, hand over its console line by line, and wait until it ends.

        Raises:
            S2PError: it did not end within ``limit_seconds``.
        """
        command = [self._xcrun, "devicectl", "device", "process", "launch", "--device", self.udid]
        command += ["--console", "--terminate-existing", identifier, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        assert process.stdout is not None
        expired = threading.Event()

        def stop() -> None:
            expired.set()
            process.terminate()  # devicectl passes the signal on to the app.

        timer = threading.Timer(limit_seconds, stop)
        timer.start()
        started, signal, message, failed = False, None, "", False
        try:
            for line in process.stdout:
                text = line.strip()
                started = started or text.startswith("Launched application")
                ended = re.search(r"terminated due to signal (\d+)", text)
                signal = int(ended.group(1)) if ended else signal
                if failed or text.startswith("ERROR:"):
                    # The cause comes in the lines below, nested errors indented.
                    message = f"{message} {text}" if failed else text
                    failed = True
                else:
                    message = text or message
                on_line(text)
            status = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
                process.kill()
            process.wait()
            process.stdout.close()
        if expired.is_set():
            raise S2PError(
                f"{self.name} did not finish within {limit_seconds:.0f} s",
                "keep it unlocked with the app in front, or measure less",
            )
        return Launch(started or status == 0, signal, message)

    def refused(self, what: str, reason: str) -> S2PError:
        """The error for a reason that devicectl gave."""
        return _refusal(what, reason, self.name)

    def _device(self, verb: Sequence[str], what: str, *rest: str) -> dict[str, Any]:
        return _result(_run(self._xcrun, self._arguments(verb, rest)), what, self.name)

    def _arguments(self, verb: Sequence[str], rest: Sequence[str]) -> list[str]:
        return ["device", *verb[:2], "--device", self.udid, *verb[2:], *rest]


@dataclass(frozen=True)
class _Row:
    """One device of ``list devices``."""

    identifier: str
    udid: str
    name: str
    platform: str
    paired: bool
    reachable: bool

    @classmethod
    def read(cls, row: Any) -> _Row:
        def field(group: str, name: str) -> str:
            fields = row.get(group) if isinstance(row, dict) else None
            return str(fields.get(name, "")) if isinstance(fields, dict) else ""

        identifier = str(row.get("identifier", "")) if isinstance(row, dict) else ""
        udid = field("hardwareProperties", "udid") or identifier
        return cls(
            identifier,
            udid,
            field("deviceProperties", "name") or udid,
            field("hardwareProperties", "platform"),
            field("connectionProperties", "pairingState") == "paired",
            # An idle device is "disconnected": the tunnel is built when it is needed.
            field("connectionProperties", "tunnelState") in ("connected", "disconnected"),
        )


@dataclass(frozen=True)
class _Done:
    """``result`` of a command, or the reason why there is none."""

    result: dict[str, Any]
    error: str | None


def _run(xcrun: str, arguments: Sequence[str]) -> _Done:
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        command = [xcrun, "devicectl", *arguments, "--quiet", "--json-output", str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        document: Any = None
        with contextlib.suppress(OSError, ValueError, RecursionError):
            document = json.loads(answer.read_text(encoding="utf-8"))
    fields = document if isinstance(document, dict) else {}
    result = fields.get("result")
    if done.returncode == 0 and isinstance(result, dict):
        return _Done(result, None)
    reason = _deepest(fields.get("error")) or _last_line(done.stderr) or f"status {done.returncode} without an answer"
    return _Done({}, reason)


def _deepest(error: Any) -> str:
    """Descriptions of an error and of those below it, joined: the cause is often the last."""
    texts: list[str] = []
    while isinstance(error, dict) and len(texts) < 8:
        info = error.get("userInfo")
        info = info if isinstance(info, dict) else {}
        for key in ("NSLocalizedDescription", "NSLocalizedFailureReason"):
            value = info.get(key)
            text = value.get("string") if isinstance(value, dict) else value
            if isinstance(text, str) and text.strip():
                texts.append(" ".join(text.split()))
        below = info.get("NSUnderlyingError")
        error = below.get("error") if isinstance(below, dict) else None
    return " ".join(dict.fromkeys(texts))


def _result(done: _Done, what: str, name: str = "Xcode") -> dict[str, Any]:
    if done.error is not None:
        raise _refusal(what, done.error, name)
    return done.result


def _refusal(what: str, reason: str, name: str) -> S2PError:
    reason = " ".join(reason.removeprefix("ERROR: ").split()).rstrip(".")
    if _speaks_of(reason, _UNTRUSTED):
        return S2PError(
            f"{name} does not trust the app's developer",
            "on the device open Settings, General, VPN & Device Management and trust it",
        )
    if _speaks_of(reason, ("no space", "not enough space", "insufficient storage")):
        return S2PError(f"no space left on {name}", "free some space on it")
    if _speaks_of(reason, _LOCKED):
        return S2PError(f"{name} is locked", "unlock it, keep its screen on and run again")
    if _speaks_of(reason, _LOST):
        return S2PError(f"{name} went away ({reason})", "reconnect and unlock it and run again")
    return S2PError(f"{name} did not {what} ({reason or 'no message'})", "check it in Xcode, Window, Devices and Simulators")


def _speaks_of(reason: str, signs: Sequence[str]) -> bool:
    return any(sign in reason.lower() for sign in signs)


def _list(result: dict[str, Any], key: str) -> list[Any]:
    value = result.get(key)
    if not isinstance(value, list):
        raise S2PError(f"devicectl's answer has no {key}", "update Xcode to 16 or newer")
    return value


def _container(identifier: str) -> list[str]:
    return ["--domain-type", "appDataContainer", "--domain-identifier", identifier]


def _places(source: str, destination: str) -> list[str]:
    return ["--source", source, "--destination", destination]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
