"""A diverging loss stops the training and names the step and its samples; noise does not."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch

from bettersynth_assets_tests.helpers.small_training import plan_values, run_plan, stage_of
from toolkit.data.order import grouped_order
from toolkit.training.divergence import LossWatch
from toolkit.training.plan import NonFiniteLossError
from toolkit.training.run import main
from toolkit.training.trainer import ExposureTrainer


def _first_fault(losses: list[float], vocabulary: int = 256_000, global_batch: int = 256) -> tuple[int, str] | None:
    watch = LossWatch(vocabulary, global_batch)
    for step, loss in enumerate(losses, start=1):
        if (fault := watch.add(loss)) is not None:
            return step, fault
    return None


def test_ordinary_losses_are_accepted() -> None:
    noise = random.Random(0)
    falling = [0.8 + 9 * math.exp(-step / 50) + noise.gauss(0, 0.3) for step in range(2000)]
    spikes = [30.0 if step % 97 == 50 else loss for step, loss in enumerate(falling)]
    learned = [0.01 * (1 + noise.random()) for _ in range(200)]
    # Batches of two kinds, as in fine-tuning of the kit: short answers and whole conversations.
    kinds = [noise.choice((0.1, 1.8)) + noise.gauss(0, 0.05) for _ in range(2000)]
    forgotten = [0.02] * 50 + [2.5] * 50  # another kind of row follows one that was memorised
    for losses in (falling, spikes, learned, kinds, forgotten, [11.9] * 100, [20.0, 19.0, 18.0] * 10):
        assert _first_fault(losses) is None


def test_a_sudden_divergence_is_detected_at_once_and_a_slow_one_within_a_few_steps() -> None:
    at_once = _first_fault([2.0] * 20 + [1e4])
    assert at_once is not None and at_once[0] == 21 and "over 37.36" in at_once[1]
    plateau = _first_fault([5.0] * 4 + [2.0] * 20 + [11.0] * 20)
    assert plateau is not None and 24 + 4 <= plateau[0] <= 24 + 8 and "lowest so far, 2" in plateau[1]
    slow = _first_fault([1.0 + 0.05 * step for step in range(200)])
    assert slow is not None and slow[0] < 90


def test_small_batches_with_and_without_a_row_of_noise_are_no_trend() -> None:
    # As pre-training on random rows of the miniature in batches of 8: a fifth of the steps have a loss over 3.5.
    for random_seed in range(20):
        noise = random.Random(random_seed)
        losses = [noise.choice((1.6, 1.6, 1.6, 5.0)) + noise.gauss(0, 0.2) for _ in range(1000)]
        assert _first_fault(losses, global_batch=8) is None
        ruined = _first_fault(losses + [noise.choice((6.5, 8.0)) for _ in range(100)], global_batch=8)
        assert ruined is not None and 1000 + 8 <= ruined[0] <= 1000 + 64


def test_a_much_too_high_learning_rate_stops_with_step_and_samples(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = stage_of(plan_values(world, tmp_path / "out"), "finetune", learning_rate=1e3, max_steps=12)
    (tmp_path / "plan.json").write_text(json.dumps(values))
    assert main([str(tmp_path / "plan.json")]) == 3
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert events[-1]["kind"] == "DivergedLossError"
    message = events[-1]["message"]
    rows = json.loads((world / "data.json").read_text())
    words = [sum(len(turn["value"].split()) for turn in row["conversations"]) for row in rows]
    order = grouped_order(words, ["image" in row for row in rows], 12, 4, seed=7)
    # The first step's learning rate is 0 (warm-up); the second step ruins the model, and the third shows it.
    assert "in step 3, over" in message
    assert message.endswith(f"samples of the batch: {', '.join(rows[at]['id'] for at in order[8:12])}")
    assert not (tmp_path / "out" / "finetune" / "manifest.json").exists()


def test_weights_ruined_by_the_last_step_are_not_written(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ExposureTrainer.training_step

    def ruining(self: ExposureTrainer, model: torch.nn.Module, *given: object) -> torch.Tensor:
        loss = step(self, model, *given)  # type: ignore[arg-type]
        if self.state.global_step == 2:
            next(p for p in model.parameters() if p.grad is not None).grad.fill_(math.inf)  # type: ignore[union-attr]
        return loss

    monkeypatch.setattr(ExposureTrainer, "training_step", ruining)
    values = stage_of(plan_values(world, tmp_path / "out", checkpoint_every=1), "pretrain", max_grad_norm=None)
    with pytest.raises(NonFiniteLossError, match=r"became NaN or infinite in step 3; samples of the batch: \w+, "):
        run_plan(values)
    assert not (tmp_path / "out" / "pretrain" / "manifest.json").exists()
