"""Hugging Face Trainer with a fixed order of exposures, weighted losses and checks for bad losses.

In: exposures in their final order. Out: a trained model, and the loss of every step.

Each row carries the loss weight of its tokens (:func:`toolkit.data.order.loss_weights`), so that the loss of a step is
the plain sum over all processes and micro-batches. No other factor may scale it. Data parallelism averages gradients
over processes, and DeepSpeed also divides by the number of micro-batches; this module multiplies by both factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer

from toolkit.data.exposures import Exposures
from toolkit.data.protocols import Processor
from toolkit.models.base import Architecture
from toolkit.training.divergence import LossWatch
from toolkit.training.plan import DivergedLossError, NonFiniteLossError


class FromPosition(Sampler[int]):
    """Yields positions from ``start`` to ``end``, so that rows trained before a checkpoint are not even read."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.end))

    def __len__(self) -> int:
        return self.end - self.start


class ExposureTrainer(Trainer):
    """Trains on exposures in order and records the loss of each step in ``losses``.

    Args:
        exposures: exposures of all steps.
        architecture: architecture of the model; computes the loss.
        processor: converts the loaders' images to inputs of the vision towers, on the device.
        first_step: number of steps already trained, according to the checkpoint.
    """

    def __init__(
        self, *, exposures: Exposures, architecture: Architecture, processor: Processor, first_step: int = 0,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(train_dataset=exposures, **kwargs)
        self.exposures, self.processor, self.first_step = exposures, processor, first_step
        self.architecture = architecture
        # If False, Trainer neither counts labels nor passes their number to the model.
        self.model_accepts_loss_kwargs = False
        self.losses: list[float] = []
        self._watch = LossWatch(architecture.vocabulary(cast(PreTrainedModel, self.model)), exposures.global_batch)
        self._micro_losses: list[Tensor] = []
        self._micro_ids: list[list[str]] = []
        self._scale = self.args.world_size * (self.args.gradient_accumulation_steps if self.is_deepspeed_enabled else 1)

    def continue_from(self, losses: list[float]) -> None:
        """Continue after a checkpoint with the losses of the steps before it."""
        self.losses = list(losses)
        for loss in losses:
            self._watch.add(loss)

    def check_weights(self) -> None:
        """Check that the last update left all trained weights finite; the step's loss was computed before it.

        Raises:
            NonFiniteLossError: a trained weight is NaN or infinite; the message names the step and its samples.
        """
        model: nn.Module = self.accelerator.unwrap_model(self.model)
        trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        finite = torch.stack([torch.isfinite(value.detach()).all() for _, value in trained]).tolist()
        if all(finite):
            return
        name, step = trained[finite.index(False)][0], self.state.global_step
        ids = ", ".join(self.exposures.ids_of(step))
        raise NonFiniteLossError(f"{name} became NaN or infinite in step {step}; samples of the batch: {ids}")

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        return FromPosition(self.first_step * self.exposures.global_batch, len(self.exposures))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: Trainer's estimate iterates over all parameters in every step and is not used here."""
        return 0

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # The inputs are on the device already. Under DeepSpeed, Trainer would cast the loss weights to bfloat16.
        pixels = inputs.pop("pixels", None)
        if pixels is not None:
            inputs |= self.processor.pixel_inputs(pixels)
        return inputs

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Run forward and backward of one micro-batch (with DeepSpeed also the update); check the last one's losses."""
        self._micro_ids.append(inputs.pop("sample_ids"))
        if not model.training:
            model.train()
        loss = self.architecture.loss(model, self._prepare_inputs(inputs))
        self._micro_losses.append(loss.detach())
        if self.accelerator.sync_gradients:
            self._check_losses()
        self.accelerator.backward(loss * self._scale)
        # Trainer logs the mean of this value over processes.
        return loss.detach() * self.args.world_size

    def _check_losses(self) -> None:
        """Sum the step's losses and raise before a bad loss reaches the weights; the only GPU sync of a step.

        Raises:
            NonFiniteLossError: in every process; names the step and the samples of the first bad micro-batch.
            DivergedLossError: in every process; names the step and its samples.
        """
        micro_losses, ids = torch.stack(self._micro_losses), self._micro_ids
        self._micro_losses, self._micro_ids = [], []
        if self.args.world_size > 1:
            micro_losses = self.accelerator.gather(micro_losses)
        losses = micro_losses.double().cpu().reshape(self.args.world_size, -1)
        self.losses.append(float(losses.sum()))
        step = self.state.global_step + 1
        if torch.isfinite(losses).all():
            fault = self._watch.add(self.losses[-1])
            if fault is not None:
                ids_of_step = ", ".join(self.exposures.ids_of(step))
                raise DivergedLossError(
                    f"loss diverged: it is {self.losses[-1]:.4g} in step {step}, {fault}; lower the learning rate, or "
                    f"check the samples of the batch: {ids_of_step}"
                )
            return
        micro, process = (int(at) for at in (~torch.isfinite(losses)).T.nonzero()[0])
        value = float(losses[process, micro])
        named = gather_object([ids[micro]])[process] if self.args.world_size > 1 else ids[micro]
        raise NonFiniteLossError(f"loss is {value} in step {step}; samples of the batch: {', '.join(named)}")
