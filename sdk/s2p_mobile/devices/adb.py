"""The Android Debug Bridge: one chosen device, its shell and its files, with errors that say what to do."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from s2p_runtime.errors import CheckFailed, S2PError

_KILLED = 137
"""Status of a program that SIGKILL ended, as a shell gives it."""

_LOST = ("device offline", "not found", "no devices/emulators found", "device unauthorized", "connection reset", "closed")


def find_adb(program: str | Path | None) -> str:
    """The adb program: the given one, or the one on PATH.

    Raises:
        S2PError: there is none.
    """
    found = shutil.which(str(program or "adb"))
    if found is None:
        raise S2PError(f"no adb at {program or 'PATH'}", "install Android's platform-tools and put adb on PATH")
    return found


class Adb:
    """One device behind adb."""

    def __init__(self, program: str, serial: str) -> None:
        self._command = [program, "-s", serial]
        self.serial = serial

    @property
    def over_network(self) -> bool:
        """Whether adb reaches the device without a cable (``HOST:PORT`` or an mDNS name)."""
        return ":" in self.serial or "._adb" in self.serial

    @classmethod
    def connect(cls, program: str, serial: str | None, kind: str = "android") -> Adb:
        """The device with this serial number, or the only one there is.

        Args:
            kind: what stands before the serial number where a device is chosen.

        Raises:
            S2PError: no device, several without a choice, or one that is offline or does not trust this computer.
        """
        listing = subprocess.run([program, "devices"], capture_output=True, text=True, check=False)
        if listing.returncode != 0:
            raise S2PError(f"adb does not work ({_last_line(listing.stderr)})", "try adb kill-server, then adb devices")
        rows = [line.split() for line in listing.stdout.splitlines()[1:] if line.strip()]
        states = {row[0]: row[1] for row in rows if len(row) >= 2}
        if not states:
            raise S2PError("no Android device is connected", "switch on USB debugging on the phone and check with adb devices")
        if serial is None and len(states) > 1:
            raise S2PError(
                f"several Android devices are connected ({', '.join(states)})", f"choose with `device={kind}:SERIAL`", "device"
            )
        chosen = serial or next(iter(states))
        if chosen not in states:
            raise S2PError(f"no device {chosen} is connected", f"there is {', '.join(states)}")
        if states[chosen] == "unauthorized":
            raise S2PError(f"device {chosen} does not trust this computer", "unlock it and accept the question on its screen")
        if states[chosen] != "device":
            raise S2PError(f"device {chosen} is {states[chosen]}", "reconnect it and check with adb devices")
        return cls(program, chosen)

    def shell(self, command: str, *, check: bool = True) -> str:
        """Standard output of a command on the device.

        Raises:
            S2PError: the device is gone, or (with ``check``) the command failed.
        """
        done = self._run(["shell", command])
        self._raise_if_lost(done.returncode, done.stderr)
        if check and done.returncode != 0:
            raise S2PError(f"device {self.serial} refused '{command}' ({_last_line(done.stderr)})", "check the device")
        return done.stdout

    def stream(self, command: str, on_line: Callable[[str], None]) -> None:
        """Run a command on the device and hand over its output line by line while it runs.

        Raises:
            CheckFailed: the command ended with status 1, or was killed.
            S2PError: the device is gone, or the command ended with another status.
        """
        # Errors go to a file: a pipe that nobody reads meanwhile would stop the runner once it is full.
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as error_file:
            process = subprocess.Popen(
                [*self._command, "shell", command], stdout=subprocess.PIPE, stderr=error_file, text=True, errors="replace"
            )
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    on_line(line.rstrip("\n"))
                status = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                process.stdout.close()
            error_file.seek(0)
            errors = error_file.read()
        if status == 0:
            return
        if status == _KILLED:
            raise CheckFailed(
                "the runner was killed on the device, most likely because memory ran out",
                "close other apps, or convert a smaller model or one with fewer bits",
            )
        message = _last_line(errors)
        if message.startswith("error: ") and not message.startswith(("error: device", "error: no devices", "error: closed")):
            raise (CheckFailed if status == 1 else S2PError).from_line(message, "run the tool on the device by hand")
        self._raise_if_lost(status, errors)
        raise S2PError(f"the runner failed on device {self.serial} with status {status} ({message})", "try again")

    def push(self, source: Path, target: str) -> None:
        """Copy a file to the device.

        Raises:
            S2PError: no space left, the device is gone, or the device refuses.
        """
        done = self._run(["push", str(source), target])
        if done.returncode == 0:
            return
        if "no space left" in done.stderr.lower():
            size = source.stat().st_size / 1e6
            raise S2PError(f"no space left on device {self.serial} for {source.name} ({size:.1f} MB)", "free some space on it")
        self._raise_if_lost(done.returncode, done.stderr)
        raise S2PError(f"cannot copy {source.name} to device {self.serial} ({_last_line(done.stderr)})", "check the device")

    def install(self, package: Path) -> None:
        """Install an app, or replace it and keep its data.

        Raises:
            S2PError: the device is gone, or refuses.
        """
        done = self._run(["install", "-r", str(package)])
        if done.returncode != 0:
            self._raise_if_lost(done.returncode, done.stderr)
            reason = _last_line(done.stderr) if done.stderr.strip() else _last_line(done.stdout)
            raise S2PError(
                f"device {self.serial} does not install {package.name} ({reason})",
                "allow installing over USB on it, or remove an older app that is signed with another key",
            )

    def pull(self, source: str, target: Path) -> None:
        """Copy a file from the device.

        Raises:
            S2PError: it is not there, cannot be written here, or the device is gone.
        """
        done = self._run(["pull", source, str(target)])
        if done.returncode != 0:
            self._raise_if_lost(done.returncode, done.stderr)
            raise S2PError(f"cannot copy {source} from device {self.serial} ({_last_line(done.stderr)})", "try again")

    def _run(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._command, *arguments], capture_output=True, text=True, errors="replace", check=False)

    def _raise_if_lost(self, status: int, errors: str) -> None:
        """adb itself speaks of the device in its last line, as ``adb: ...`` or ``error: ...``."""
        last = _last_line(errors).lower()
        if status != 0 and last.startswith(("adb: ", "error: ")) and any(sign in last for sign in _LOST):
            raise S2PError(
                f"device {self.serial} went away ({_last_line(errors)})", "reconnect it and run again, what was copied is kept"
            )


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"
