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

from s2p_mobile.methods.registry import QuantizationJob

SCRIPT = """
import json, sys, torch
from pathlib import Path
from s2p_mobile.methods.registry import QuantizationJob, run_method
from s2p_mobile.models import Model
from s2p_mobile.plan.registry import plan_for
from s2p_mobile.recipes import Recipe
from s2p_mobile.workers import join_workers

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


@pytest.mark.parametrize("pipeline", ["s2p", "serial"])
def test_same_latents_and_same_loss(make_job: Callable[..., QuantizationJob], tmp_path: Path, pipeline: str) -> None:
    job = make_job({"pipeline": pipeline})
    prompts = [
        f"a {thing} on a red background" for thing in ("cat", "fox", "rose", "snail", "panda", "bus", "key", "sun", "bee")
    ]
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # --multi_gpu names accelerate's own launcher of several processes; with --cpu it would start one, or ask for mpirun.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    results = {}
    for count, command in ((1, [sys.executable]), (2, launch)):
        work = tmp_path / str(count)
        options = {
            "model": str(job.model.folder),
            "recipe": job.recipe.model_dump(mode="json"),
            "work": str(work),
            "prompts": prompts,
        }
        (tmp_path / "options.json").write_text(json.dumps(options))
        run = subprocess.run(
            [*command, str(tmp_path / "script.py"), str(tmp_path / "options.json")],
            capture_output=True, check=False, text=True, env=environment, cwd=tmp_path,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        reports = [json.loads(report) for report in re.findall(r'\{"rank".*?\}', run.stdout)]  # two writers, one stream
        assert sorted(report["rank"] for report in reports) == list(range(count))
        assert {report["count"] for report in reports} == {count}
        assert len({report["integers"] for report in reports}) == 1
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (work / "latents").iterdir()}
        losses = [json.loads(line)["loss"] for line in (work / "training.jsonl").read_text().splitlines()]
        results[count] = (files, losses)
    assert results[1][0] == results[2][0]
    assert len(results[1][1]) == 6
    # The first loss is a mean of the same samples, summed in two halves. Later ones follow steps of Adam, which divides each
    # gradient by its own size and so enlarges last-place differences of the tiny ones.
    assert results[2][1][0] == pytest.approx(results[1][1][0], rel=1e-5)
    assert results[2][1] == pytest.approx(results[1][1], rel=1e-3)
