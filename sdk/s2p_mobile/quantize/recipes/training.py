"""What a recipe may say about training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from s2p_runtime.contract import Contract


class LearningRates(Contract):
    """Peak learning rates of Adam, each in the natural unit of its parameter, so that one value suits every layer."""

    weights: float = Field(default=0.004, ge=0, description="in steps of the weight's initial grid")
    weight_scales: float = Field(default=1e-3, ge=0, description="relative: of the logarithm of a scale")
    activation_scales: float = Field(default=2e-3, ge=0, description="relative: of the logarithm of a scale")
    biases: float = Field(default=2e-3, ge=0, description="relative: in units of the bias's root mean square at the start")
    time_tables: float = Field(default=1e-3, ge=0, description="relative: in units of the tables' root mean square")
    norms: float = Field(default=1e-3, ge=0, description="relative: in units of the root mean square of a norm's gain or shift")


class StartRule(Contract):
    """The weights that training starts from."""

    rounding: Literal["adaround", "gptq", "nearest"] = Field(
        default="gptq",
        description="adaround: up or down, learned resnet by resnet and transformer layer by transformer layer; "
        "gptq: rounding errors make up for each other; nearest: each weight alone",
    )
    calls: int = Field(default=160, ge=1, description="FP calls whose inputs gptq sees")
    samples: int = Field(default=1024, ge=1, description="U-Net calls that adaround learns from, as far as memory allows")
    iterations: int = Field(default=1000, ge=1, description="optimizer steps of adaround for each part of the network")
    remainder: float = Field(
        default=0.45,
        ge=0,
        lt=0.5,
        description="adaround: a weight begins at the float one, but no further than so many steps from its integer; 0: on it",
    )


class OutputLossRule(Contract):
    """The error of the network's output."""

    guided: float = Field(
        default=0.75, ge=0, le=1, description="share of the guided output's error; the rest is that of the two outputs alone"
    )
    calls: Literal["influence", "uniform"] = Field(
        default="influence", description="influence: each call's error counts by how much it changes the picture"
    )
    prompts: int = Field(default=16, ge=1, description="prompts on which the influence is measured; its geometric mean counts")


class DistillationRule(Contract):
    """Inter-layer distillation."""

    weight: float = Field(default=0.01, ge=0, description="of the normalised feature error beside the output error; 0: off")


class FreezingRule(Contract):
    """Freezing of weights whose rounding oscillates."""

    momentum: float = Field(default=0.02, gt=0, lt=1, description="of the moving averages of flips and integers")
    start: float = Field(default=0.10, gt=0, le=1, description="flip rate above which a weight is frozen, at the beginning")
    end: float = Field(default=0.02, gt=0, le=1, description="the same at the end; the threshold decays as a cosine")
    every: int = Field(default=100, ge=1, description="iterations between two checks")


class GuardRule(Contract):
    """When training counts as diverged."""

    factor: float = Field(default=10.0, gt=1, description="loss above this many running medians")
    patience: int = Field(default=20, ge=1, description="for this many iterations in a row")
    window: int = Field(default=200, ge=2, description="iterations of the running median")


class TrainingRule(Contract):
    """How a trained method learns."""

    pipeline: Literal["s2p", "serial", "parallel"] = "s2p"
    learn: Literal["weights", "scales"] = Field(
        default="weights",
        description="weights: integers, scales and everything else; scales: the integers stay those of ``start``",
    )
    prompts: int = Field(
        default=512,
        ge=1,
        description="FP trajectories to learn from; prompts are used again with other seeds when there are fewer",
    )
    iterations: int = Field(default=2000, ge=1, description="optimizer steps")
    batch: int = Field(default=8, ge=1, description="(prompt, call) pairs of a micro-batch; guidance doubles the samples")
    accumulate: int = Field(default=1, ge=1, description="micro-batches of one optimizer step")
    learning_rates: LearningRates = LearningRates()
    start: StartRule = StartRule()
    loss: OutputLossRule = OutputLossRule()
    warmup: int = Field(default=20, ge=0, description="iterations in which the learning rates rise to their peaks")
    ema: float | None = Field(default=0.99, gt=0, lt=1, description="decay of the averaged parameters; null: the last ones")
    distillation: DistillationRule = DistillationRule()
    freezing: FreezingRule | None = FreezingRule()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="of products; auto: half precision where the device is faster with it"
    )
    store_features: bool = Field(default=False, description="keep the FP features with the latents instead of computing them")
    checkpoint_activations: bool = Field(default=False, description="recompute blocks in the backward pass; saves memory")
    offload_activations: bool = Field(
        default=False, description="CUDA: tensors for the backward pass wait in the machine's memory; slower, saves the GPU's"
    )
    shard_optimizer: bool = Field(
        default=False,
        description="several processes: each keeps the optimizer's state and the averages of its share of the parameters",
    )
    save_minutes: float = Field(default=2.0, gt=0, description="between two saved states")
    guard: GuardRule = GuardRule()
