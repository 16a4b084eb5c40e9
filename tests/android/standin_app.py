"""A stand-in for the measuring app: does what ``am start`` asks with the runner of this machine, and leaves what the app leaves.

Words: the runner, the folder of runs, then ``--es NAME VALUE`` as often as there are. ``S2P_STANDIN`` names the folder with
config.json; its key ``app_killed_at`` ends the app when its progress holds this text, ``app_killed_in`` when it is launched for this
pass. With ``npu`` the app has the engine of an NPU, and its runs are replays; ``services`` tell the phone's chip.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

OPTIONS = {
    "runs": "--runs",
    "warmup": "--warmup",
    "cooldown": "--cooldown",
    "minimum": "--minimum-seconds",
    "cool": "--cool",
    "threads": "--threads",
}


def main(words: list[str]) -> int:
    runner, runs, *extras = words
    config = json.loads((Path(os.environ["S2P_STANDIN"]) / "config.json").read_text())
    given = {extras[i + 1]: extras[i + 2] for i in range(0, len(extras), 3)}
    folder = Path(runs) / given.pop("out")
    folder.mkdir(parents=True, exist_ok=True)
    bundle, kind = given.pop("bundle"), given.pop("pass", "times")
    if config.get("app_killed_in") == kind:
        return 137
    out = folder / ("memory.json" if kind == "memory" else "report.json")
    scratch = folder / f".{out.name}" if kind == "memory" else folder / "scratch" / out.name
    scratch.parent.mkdir(exist_ok=True)
    command = [runner, bundle, "--out", str(scratch), *(["--memory-only"] if kind == "memory" else [])]
    command += ["--release-chunks"] if given.pop("release-chunks", "0") == "1" else []
    command += [word for name, value in given.items() for word in (OPTIONS[name], value)]
    if config.get("npu"):
        # As the app does: the phone's own chip goes to the core, which picks the programs.
        command += ["--replay", "--chip", config["services"]["getprop ro.soc.model"].strip()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    for line in process.stdout:
        event = json.loads(line)
        told = f"{event['event']} {event['index']} {event['total']} {event['ms']}"
        with (folder / "progress.txt").open("a") as progress:
            progress.write(told + "\n")
        if config.get("app_killed_at") and config["app_killed_at"] in told:
            process.kill()
            return 137
    errors = [line for line in process.stderr.read().splitlines() if line.startswith("error: ")]
    if process.wait():
        (folder / "error.txt").write_text((errors or ["error: no word"])[-1] + "\n")
        return 0
    if kind == "times":
        _forget_memory(scratch)
        for picture in scratch.parent.glob("*.png"):
            picture.replace(folder / picture.name)
    scratch.replace(out)
    return 0


def _forget_memory(report: Path) -> None:
    """The runner measures memory in a process of its own, the app in a launch of its own, of which this report knows nothing."""
    written = json.loads(report.read_text())
    written["memory"] = {"baseline_bytes": None, "peak_bytes": None, "method": "none yet", "samples": [], "own_launch": False}
    written["missing"] |= {f"memory.{name}": "no launch" for name in ("baseline_bytes", "peak_bytes", "samples")}
    report.write_text(json.dumps(written))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
