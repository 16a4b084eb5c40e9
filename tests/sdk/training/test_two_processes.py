"""Two processes of ``accelerate launch`` (gloo) against one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.work import STATE_NAME
from s2p_mobile.quantize.workers import join_workers
from s2p_runtime.errors import S2PError

SCRIPT = """
import json, sys, torch
from pathlib import Path
from s2p_mobile.quantize.job import QuantizationJob
from s2p_mobile.quantize.methods import run_method
from s2p_mobile.sources.model import Model
from s2p_converters.core.plan.schedulers import plan_for
from s2p_mobile.quantize.recipes import Recipe
from s2p_mobile.quantize.workers import join_workers

torch.set_num_threads(1)
options = json.loads(Path(sys.argv[1]).read_text())
model = Model(Path(options["model"]))
recipe = Recipe.model_validate(options["recipe"])
work = Path(options["work"])
plan = plan_for(model.folder / "scheduler", "ddim", 5)
job = QuantizationJob(model, plan, recipe, tuple(options["prompts"]), 4.0, 2, device="cpu", work=work)
layers = run_method("s2p", job).layers
workers = join_workers("cpu")
name = next(iter(layers))
print(json.dumps({"rank": workers.rank, "count": workers.count, "integers": int(layers[name].integers.astype(int).sum())}))
"""


CONFIGURATIONS = Path(__file__).parents[3] / "configs" / "accelerate"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGURATIONS / "gpu.yaml")]
"""The repository's own configuration of two processes; with --device cpu they talk through gloo."""


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGURATIONS.iterdir()))
def test_accelerate_knows_every_field_of_the_configurations(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGURATIONS / name))
    assert config.distributed_type == "MULTI_GPU" and config.num_processes >= 2


@pytest.mark.parametrize(("variable", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")])
def test_other_launches_are_refused(variable: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(variable, "true")
    with pytest.raises(S2PError, match=f"{name}.*shard_optimizer"):
        join_workers("cpu")


PROMPTS = [f"a {thing} on a red background" for thing in ("cat", "fox", "rose", "snail", "panda", "bus", "key", "sun", "bee")]


class Training:
    """A training in one or two processes.

    Attributes:
        latents: SHA-256 of each file of the latent set.
        losses: of every iteration.
        state: file of the trainer's state.
    """

    def __init__(self, folder: Path, job: QuantizationJob, count: int) -> None:
        folder.mkdir(exist_ok=True)
        work, script, settings = folder / "work", folder / "script.py", folder / "options.json"
        options = {
            "model": str(job.model.folder),
            "recipe": job.recipe.model_dump(mode="json"),
            "work": str(work),
            "prompts": PROMPTS,
        }
        script.write_text(SCRIPT)
        settings.write_text(json.dumps(options))
        command = [sys.executable] if count == 1 else [*LAUNCH, "--main_process_port", "0"]
        run = subprocess.run(
            [*command, str(script), str(settings)], capture_output=True, check=False, text=True, env=ENVIRONMENT, cwd=folder
        )
        assert run.returncode == 0, run.stderr
        reports = [json.loads(report) for report in re.findall(r'\{"rank".*?\}', run.stdout)]  # two writers, one stream
        assert sorted(report["rank"] for report in reports) == list(range(count))
        assert {report["count"] for report in reports} == {count}
        assert len({report["integers"] for report in reports}) == 1
        self.latents = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (work / "latents").iterdir()}
        self.losses = [json.loads(line)["loss"] for line in (work / "training.jsonl").read_text().splitlines()]
        self.state = work / STATE_NAME


def all_tensors(state: Path) -> dict[str, torch.Tensor]:
    """Of a training state's files."""
    return {name: value for path in sorted(state.rglob("*.safetensors")) for name, value in load_file(path).items()}


@pytest.fixture(scope="module")
def alone() -> dict[str, Training]:
    """Pipeline -> its training in one process, once it was made: nothing is shared out there."""
    return {}


@pytest.mark.parametrize(
    ("pipeline", "shards"), [("s2p", False), ("s2p", True), pytest.param("serial", False, marks=pytest.mark.slow)]
)
def test_same_latents_and_same_loss(
    make_job: Callable[..., QuantizationJob], alone: dict[str, Training], tmp_path: Path, pipeline: str, shards: bool
) -> None:
    if pipeline not in alone:
        alone[pipeline] = Training(tmp_path / "1", make_job({"pipeline": pipeline}), 1)
    one, two = alone[pipeline], Training(tmp_path / "2", make_job({"pipeline": pipeline, "shard_optimizer": shards}), 2)
    assert one.latents == two.latents
    assert len(one.losses) == 6
    # The first loss is a mean of the same samples, summed in two halves. Later ones follow steps of Adam, which divides each
    # gradient by its own size and so enlarges last-place differences of the tiny ones.
    assert two.losses[0] == pytest.approx(one.losses[0], rel=1e-5)
    assert two.losses == pytest.approx(one.losses, rel=1e-3)
    if pipeline == "serial":  # keeps the state of the beginning: its losses are out of the ordinary
        return
    states = [all_tensors(training.state) for training in (one, two)]
    # Gathered from the processes: the same tensors of the same shapes, so that any number of processes can go on.
    assert {name: value.shape for name, value in states[0].items()} == {name: value.shape for name, value in states[1].items()}
    for kind in ("first", "second", "average"):
        ours, theirs = (
            torch.cat([value.flatten() for name, value in state.items() if name.startswith("learner") and name.endswith(kind)])
            for state in states
        )
        # As the losses: steps of Adam enlarge differences of the smallest gradients.
        assert torch.linalg.vector_norm(ours - theirs) < 2e-2 * torch.linalg.vector_norm(ours)


SHARES = """
import json, sys, torch
from s2p_mobile.quantize.training.shares import Shares
from s2p_mobile.quantize.workers import join_workers

workers = join_workers("cpu")
torch.manual_seed(0)
parameters = {f"p{k}": torch.nn.Parameter(torch.randn(n)) for k, n in enumerate((7, 1, 30, 12, 5, 5))}
whole = {name: value.detach().clone() for name, value in parameters.items()}
reference = {name: torch.nn.Parameter(value.clone()) for name, value in whole.items()}
shares = Shares(parameters, workers, True)
ours = torch.optim.Adam(shares.own.values(), lr=0.1)
theirs = torch.optim.Adam(reference.values(), lr=0.1)
for step in range(3):
    for name in parameters:
        gradient = torch.randn_like(parameters[name])
        parameters[name].grad, reference[name].grad = gradient, gradient.clone()
    ours.step(); shares.publish()
    theirs.step()
equal = all(torch.equal(parameters[name], reference[name]) for name in parameters)
moments = {f"{name}.first": ours.state[value]["exp_avg"] for name, value in shares.own.items()}
collected = shares.collect(moments, ("first",))
right = not workers.main or all(
    torch.equal(collected[f"{name}.first"], theirs.state[value]["exp_avg"]) for name, value in reference.items()
)
held = sum(value.numel() for value in shares.own.values())
print(json.dumps({"rank": workers.rank, "equal": equal, "right": right, "held": held}))
"""


def test_shared_state_gives_the_same_bits(tmp_path: Path) -> None:
    """Adam with its state divided between two processes, against Adam."""
    (tmp_path / "script.py").write_text(SHARES)
    command = [*LAUNCH, "--main_process_port", "0", str(tmp_path / "script.py")]
    run = subprocess.run(command, capture_output=True, check=False, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    reports = [json.loads(report) for report in re.findall(r'\{"rank".*?\}', run.stdout)]
    assert len(reports) == 2 and all(report["equal"] and report["right"] for report in reports)
    # 60 numbers, largest first: 30 and 12 + 7 + 5 + 5 + 1.
    assert sorted(report["held"] for report in reports) == [30, 30]


CHECKPOINT = """
import json, os, sys
from pathlib import Path
import s2p_mobile
from s2p_mobile.quantize import checkpointing
from s2p_runtime.files import sha256_file

model, out, full = sys.argv[1:]
if full == "full":
    def write_checkpoint(*_):
        raise s2p_mobile.S2PError("no space left", "free some")
    checkpointing.write_checkpoint = write_checkpoint
try:
    made = s2p_mobile.quantize(model, method="rtn", recipe="w8a8", steps=1, count=1, out=out, device="cpu")
    said = sha256_file(made.folder / "unet.safetensors")
except s2p_mobile.S2PError as error:
    said = error.problem
print(json.dumps({"rank": int(os.environ["RANK"]), "said": said}))
"""


@pytest.mark.parametrize(("full", "expected"), [("", None), ("full", ["no space left", "another process of this job failed"])])
def test_every_process_gets_the_checkpoint_or_the_error(
    make_job: Callable[..., QuantizationJob], tmp_path: Path, full: str, expected: list[str] | None
) -> None:
    """The main process alone writes; the others wait for it and read what it wrote."""
    (tmp_path / "script.py").write_text(CHECKPOINT)
    arguments = [str(make_job().model.folder), str(tmp_path / "ck"), full]
    command = [*LAUNCH, "--main_process_port", "0", str(tmp_path / "script.py"), *arguments]
    run = subprocess.run(command, capture_output=True, check=False, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    reports = sorted(
        (json.loads(report) for report in re.findall(r'\{"rank".*?\}', run.stdout)), key=lambda report: report["rank"]
    )
    written = hashlib.sha256((tmp_path / "ck" / "unet.safetensors").read_bytes()).hexdigest() if expected is None else ""
    assert [report["said"] for report in reports] == (expected or [written, written])
    assert (tmp_path / "ck").exists() is (expected is None)
