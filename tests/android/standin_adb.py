"""A stand-in for adb: devices whose /data/local/tmp is a sandbox folder and whose programs run on this machine.

Environment: ``S2P_STANDIN`` names a folder with ``config.json``. Its keys: ``devices`` (serial -> state), ``services``
(dumpsys, settings and getprop: command -> text, or a list of texts, one per question), ``disk_full``, ``lost_at`` (drop the device
when a line of the running program holds this text), ``killed_at`` (kill the program there), ``late_write`` (a stopped app finishes a
write when its folder is being removed for the first time after it ran). ``log.txt`` collects the calls.

An app lives on it, too: once it is installed (``app`` names the runner that it measures with), ``am start`` runs standin_app.py.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

STATE = Path(os.environ["S2P_STANDIN"])
SANDBOX = STATE / "device"
TEMPORARY = "/data/local/tmp"


def _local(remote: str) -> str:
    return remote.replace(TEMPORARY, str(SANDBOX)).replace("/sdcard", str(SANDBOX / "sdcard"))


def _app(command: str, config: dict[str, Any]) -> int | None:
    """What the app's commands do; None: it is another command."""
    pid, installed = STATE / "app.pid", (STATE / "installed").exists() or config.get("installed", False)
    words = shlex.split(command)
    if words[:2] == ["pm", "path"]:
        print(f"package:/data/app/{words[2]}/base.apk" if installed else "", end="")
        return 0 if installed else 1
    if words[:2] == ["am", "start"]:
        if not installed:
            print("Starting: Intent { }\nError type 3\nError: Activity class does not exist.")
            return 0
        runs = SANDBOX / "sdcard/Android/data" / words[3].split("/")[0] / "files/runs"
        extras = [_local(word) for word in words[4:]]
        run = [sys.executable, str(Path(__file__).with_name("standin_app.py")), config["app"], str(runs), *extras]
        process = subprocess.Popen(
            run, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        pid.write_text(str(process.pid))
        print("Starting: Intent { }")
        return 0
    return None


def _service(command: str, config: dict[str, Any]) -> str | None:
    answer = config.get("services", {}).get(command)
    if not isinstance(answer, list):
        return answer
    counter = STATE / f"asked {command.replace('/', '_')}"
    asked = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(asked + 1))
    return str(answer[min(asked, len(answer) - 1)])


def _shell(command: str, serial: str, config: dict[str, Any]) -> int:
    answer = _service(command, config)
    if answer is not None:
        sys.stdout.write(answer)
        return 0
    if command.startswith(("dumpsys", "settings")):
        return 127
    if command.startswith("getprop"):
        print()  # what Android says of a property that is not there
        return 0
    done = _app(command, config)
    if done is not None:
        return done
    command = _with_tools(command, config)
    process = subprocess.Popen(["sh", "-c", _local(command)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line.replace(str(SANDBOX), TEMPORARY))
        sys.stdout.flush()
        if config.get("lost_at") and config["lost_at"] in line:
            os.killpg(process.pid, signal.SIGKILL)
            (STATE / "lost").touch()
            sys.stderr.write(f"adb: device '{serial}' not found\n")
            return 1
        if config.get("killed_at") and config["killed_at"] in line:
            os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    return 128 - status if status < 0 else status


def _with_tools(command: str, config: dict[str, Any]) -> str:
    """A shell's command on this machine, with what only a phone's shell has."""
    pid = STATE / "app.pid"
    tools = (
        f'am() {{ [ -f {pid} ] && kill -9 -- -"$(cat {pid})" 2>/dev/null; rm -f {pid}; }}\n'
        f'pidof() {{ [ -f {pid} ] && kill -0 "$(cat {pid})" 2>/dev/null && cat {pid}; }}\n'
    )
    if config.get("late_write") and (STATE / "app.pid").exists():
        written = STATE / "late"
        tools += (
            'rm() { command rm "$@" || return; case "$*" in *-rf*) ;; *) return;; esac; '
            f'[ -f {written} ] && return; touch {written}; mkdir "$2"; echo late >"$2/progress.txt"; return 1; }}\n'
        )
    return tools + command if "am force-stop" in command or "pidof" in command else command


def main(arguments: list[str]) -> int:
    config = json.loads((STATE / "config.json").read_text())
    SANDBOX.mkdir(exist_ok=True)
    with (STATE / "log.txt").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    if arguments == ["devices"]:
        print("List of devices attached")
        for serial, state in config["devices"].items():
            print(f"{serial}\t{state}")
        print()
        return 0
    assert arguments[0] == "-s"
    serial, verb, *rest = arguments[1:]
    if (STATE / "lost").exists():
        sys.stderr.write(f"adb: device '{serial}' not found\n")
        return 1
    if verb == "shell":
        return _shell(rest[0], serial, config)
    if verb == "install":
        if config.get("refuses_apps"):
            sys.stderr.write("adb: failed to install app.apk: Failure [INSTALL_FAILED_USER_RESTRICTED]\n")
            return 1
        (STATE / "installed").touch()
        print("Success")
        return 0
    source, target = rest
    if verb == "push":
        if config.get("disk_full"):
            sys.stderr.write(
                f"adb: error: failed to copy '{source}' to '{target}': remote write failed: No space left on device\n"
            )
            return 1
        shutil.copyfile(source, _local(target))
        return 0
    if not Path(_local(source)).exists():
        sys.stderr.write(f"adb: error: failed to stat remote object '{source}': No such file or directory\n")
        return 1
    shutil.copyfile(_local(source), target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
