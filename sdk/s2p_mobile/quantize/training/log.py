"""The record of a run: one JSON object a line, and a plot of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from s2p_runtime.errors import S2PError

LOG_NAME = "training.jsonl"
PLOT_NAME = "loss.png"


@dataclass(frozen=True)
class LogLine:
    """One iteration (1-based: the number of optimizer steps done)."""

    iteration: int
    loss: float
    output: float
    features: float
    rate: float
    frozen: float
    seconds: float


class TrainingLog:
    """Appends lines; a resumed run first drops those after its saved state. Without a path nothing is kept."""

    def __init__(self, path: Path | None, iteration: int = 0) -> None:
        self.losses: list[float] = []
        self._handle: TextIO | None = None
        if path is None:
            return
        lines = [line for line in read_log(path) if line.iteration <= iteration] if path.is_file() else []
        self.losses = [line.loss for line in lines]
        self._handle = path.open("w", encoding="utf-8")
        for line in lines:
            self._put(line)

    def add(self, line: LogLine) -> None:
        """Write a line at once."""
        self.losses.append(line.loss)
        self._put(line)

    def _put(self, line: LogLine) -> None:
        if self._handle is not None:
            self._handle.write(json.dumps(asdict(line)) + "\n")
            self._handle.flush()

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            self._handle.close()


def read_log(path: Path) -> list[LogLine]:
    """Lines of a log; one that was cut off at the end by a kill is left out.

    Raises:
        S2PError: the file cannot be read.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise S2PError(f"cannot read the training log {path} ({error})", "delete it") from error
    lines = []
    for text in texts:
        try:
            lines.append(LogLine(**json.loads(text)))
        except (ValueError, TypeError):
            break
    return lines


def plot_losses(log: Path, target: Path) -> bool:
    """Draw loss, output error and feature error against the iteration; false when matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    lines = read_log(log)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in ("loss", "output", "features"):
        points = [(line.iteration, getattr(line, name)) for line in lines if getattr(line, name) > 0]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
    axes.set(xlabel="iteration", ylabel="error", yscale="log", title="Training loss")
    axes.legend()
    figure.savefig(target, dpi=120)
    return True
