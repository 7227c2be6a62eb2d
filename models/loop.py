"""The training loop: steps, validations, early stop, checkpoints. It knows no model.

All that decides what comes next is in `Progress` and the task's tensors, and both are in every
checkpoint: a run that was killed goes on from the last one and ends with the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from models import checkpoint
from models.api import Metric
from models.dist import Ranks
from models.loop_data import Batch, Rows, ShuffledRows
from models.loop_score import validate
from models.messages import Failure, Messenger, Note, Saved, Scalar, Workload
from models.messages import Progress as ProgressMessage
from models.pace import StepClock
from models.placement import Placement
from models.pulse import Pulse
from models.worker import StopFlag, Stopped, WorkFailed

LOSS, STOP, SAVE, TIME_UP = range(4)  # what the ranks tell each other at every step
SIGNALS = 4
REPORT_S = 0.5


class Task(Protocol):
    """What a model gives to the loop. Tensors from `weights` and `optimizer_state` are live."""

    placement: Placement

    def rows(self, split: str) -> Rows:
        """The rows of a split."""

    def step(self, batch: Batch, factor: float, signals: Sequence[float]) -> list[float]:
        """Train on one global batch; the signals added over all ranks, [0] = summed loss."""

    def workload(self) -> Workload:
        """What one row of a training step costs at least."""

    def scores(self, columns: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [n] of rows."""

    def labels(self, columns: Sequence[torch.Tensor]) -> torch.Tensor:
        """Labels [n] of rows."""

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights by name."""

    def averaged(self) -> AbstractContextManager[None]:
        """Within it weights and scores are those to judge and keep, not those of the last step."""

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """All else that the next step depends on."""

    def placed(self) -> dict[str, Placement]:
        """By name, the tensors of these two of which this rank holds a part of the rows."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to train and how often to look up."""

    epochs: int
    batch_size: int
    evals_per_epoch: int
    patience: int
    warmup: float  # epochs
    decay: float  # part of the training, at its end
    learning_rate: float  # for messages only
    seed: int
    metric: Metric
    target: float | None
    minutes: float | None
    checkpoint_s: float
    prefetch: bool = False

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """What the rates are multiplied by at a step (from 0): warm-up, then decay to 0."""
        total = self.epochs * steps_per_epoch
        warm = self.warmup * steps_per_epoch
        factor = min(1.0, (step + 1) / warm) if warm else 1.0
        falling = self.decay * total
        return min(factor, (total - step) / falling) if falling else factor

    def eval_steps(self, steps_per_epoch: int) -> set[int]:
        """After how many steps of an epoch to validate; always after the last."""
        evals = min(self.evals_per_epoch, steps_per_epoch)
        return {round(steps_per_epoch * k / evals) for k in range(1, evals + 1)}


@dataclass
class Progress:
    """Where a training is. JSON values only; floats survive JSON exactly."""

    step: int = 0
    rows: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of all ranks and their threads
    eval_seconds: float = 0.0
    save_seconds: float = 0.0
    evals_since_best: int = 0
    best: dict[str, Any] | None = None  # step, epoch, valid: {auc, logloss}
    curve: list[dict[str, Any]] = field(default_factory=list)
    stop_reason: str = ""

    @property
    def paused_seconds(self) -> float:
        """Seconds of validations and checkpoints: they are no steps."""
        return self.eval_seconds + self.save_seconds


class Loop:
    """One training of one task, by one rank."""

    def __init__(
        self, task: Task, plan: Plan, ranks: Ranks, messenger: Messenger, stop: StopFlag,
        checkpoints: Path,
    ) -> None:  # fmt: skip
        self.task, self.plan, self.ranks = task, plan, ranks
        self.messenger, self.stop, self.folder = messenger, stop, checkpoints
        self.progress = Progress()
        self.best: dict[str, torch.Tensor] = {}
        kinds = ("weights", "optimizer", "best")
        self.placed = {f"{kind}/{n}": p for n, p in task.placed().items() for kind in kinds}
        self.data = ShuffledRows(
            task.rows("train"), plan.batch_size, plan.seed, ranks.rank, ranks.size,
            prefetch=plan.prefetch,
        )  # fmt: skip
        self.valid = task.rows("valid")
        self._pulse = Pulse(messenger)
        self._saved_at = self._told_at = self._since = time.monotonic()
        self._cpu_since = time.process_time()
        self._loss, self._loss_rows, self._paused = 0.0, 0, 0.0
        self.clock = StepClock(ranks, messenger)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        found, torn = checkpoint.newest(self.folder, self.ranks)
        if self.ranks.rank == 0:
            for line in torn:
                self.messenger.send(Note(text=line, level="warning"))
        if found is None:
            return
        self.progress = Progress(**found.progress)
        if any(name.startswith("best/") for name in found.names()):
            self.best = {name: torch.empty_like(t) for name, t in self.task.weights().items()}
        for name, tensor in self._state().items():
            spread = name in self.placed
            found.read(name, tensor, self.placed[name].runs(self.ranks.rank) if spread else None)
        if self.ranks.rank == 0:
            self.messenger.send(Note(text=f"resumed from step {self.progress.step}"))

    def run(self) -> Progress:
        """Train to the end; raises Stopped after saving when a stop was requested."""
        steps = self.data.steps
        self._since = self._saved_at = self._told_at = time.monotonic()
        self._paused = self.progress.paused_seconds
        self.clock.begin(self._paused)
        self._cpu_since = time.process_time()
        self._pulse.begin(self.progress.step)
        while not self.progress.stop_reason:
            epoch, start = divmod(self.progress.step, steps)
            for batch in self.data.batches(epoch, start):
                signals = self._step(batch, steps)
                if self._ended_after(signals, steps):
                    break
        self._pulse.writes(self.progress.step, self._bytes())  # the weights, by whoever calls
        self.clock.tell(self.progress.step, self.progress.paused_seconds, over=True)
        return self.progress

    def best_weights(self) -> dict[str, torch.Tensor]:
        """The weights of the best validation; the last ones when there was none."""
        if not self.best:
            with self.task.averaged():
                return {name: tensor.clone() for name, tensor in self.task.weights().items()}
        return self.best

    def _step(self, batch: Batch, steps: int) -> list[float]:
        progress, plan = self.progress, self.plan
        factor = plan.factor(progress.step, steps)
        with self.clock.step():
            signals = self.task.step(batch, factor, [0.0, *self._wishes()])
        progress.step += 1
        progress.rows += batch.global_rows
        if not math.isfinite(signals[LOSS]):
            raise WorkFailed(
                f"the loss is {signals[LOSS]} at step {progress.step}",
                why=f"the learning rate was {plan.learning_rate * factor:g}",
                todo="lower learning_rate or table_learning_rate, or lengthen warmup",
                failure=Failure.NAN,
            )
        self._loss += signals[LOSS]
        self._loss_rows += batch.global_rows
        self._tell(steps)
        self._pulse.beat(progress.step)
        self.clock.tell(progress.step, progress.paused_seconds)
        return signals

    def _wishes(self) -> list[float]:
        """STOP from any rank; SAVE and TIME_UP from rank 0, whose clock decides."""
        now = time.monotonic()
        first = self.ranks.rank == 0
        over = self.plan.minutes is not None and (
            self.progress.seconds + now - self._since > 60 * self.plan.minutes
        )
        due = now - self._saved_at >= self.plan.checkpoint_s
        return [float(self.stop.requested), float(first and due), float(first and over)]

    def _ended_after(self, signals: Sequence[float], steps: int) -> bool:
        """Validate, end and save when it is time to; the same decisions on every rank."""
        progress = self.progress
        if (progress.step - 1) % steps + 1 in self.plan.eval_steps(steps):
            self._validate(steps)
        if progress.step == self.plan.epochs * steps:
            progress.stop_reason = progress.stop_reason or "all epochs done"
        elif signals[TIME_UP]:
            progress.stop_reason = (
                progress.stop_reason or f"the {self.plan.minutes:g} minutes are over"
            )
        validated = bool(progress.curve) and progress.curve[-1]["step"] == progress.step
        if progress.stop_reason and not validated:
            self._validate(steps)
        if progress.stop_reason or signals[STOP] or signals[SAVE]:
            self._save()
        if signals[STOP] and not progress.stop_reason:
            raise Stopped
        return bool(progress.stop_reason)

    def _validate(self, steps: int) -> None:
        """Score the validation rows; keep the weights when they are the best so far."""
        if not self.valid.rows:
            return
        with self.task.averaged():
            self._judge(steps)

    def _judge(self, steps: int) -> None:
        started = time.monotonic()
        progress, plan = self.progress, self.plan
        epoch = progress.step / steps
        values = validate(
            self.task, self.valid, self.ranks, each_batch=lambda: self._pulse.beat(progress.step)
        )
        if self.ranks.rank == 0:
            for name, value in values.items():
                point = Scalar(name=name, value=value, split="valid", step=progress.step,
                               rows=progress.rows, epoch=epoch)  # fmt: skip
                self.messenger.send(point)
        progress.curve.append({"step": progress.step, "epoch": epoch, **values})
        value = values[plan.metric.name]
        best = progress.best
        if best is None or plan.metric.better(value, best["valid"][plan.metric.name]):
            self._pulse.copies(progress.step, self._bytes())
            progress.best = {"step": progress.step, "epoch": epoch, "valid": values}
            progress.evals_since_best = 0
            for name, tensor in self.task.weights().items():
                if name in self.best:
                    self.best[name].copy_(tensor)
                else:
                    self.best[name] = tensor.clone()
        else:
            progress.evals_since_best += 1
        if plan.target is not None and not plan.metric.better(plan.target, value):
            progress.stop_reason = f"valid {plan.metric.name} {value:.4f} reached {plan.target:g}"
        elif progress.evals_since_best >= plan.patience:
            progress.stop_reason = f"no better {plan.metric.name} in {plan.patience} validations"
        progress.eval_seconds += time.monotonic() - started

    def _state(self) -> dict[str, torch.Tensor]:
        weights = {f"weights/{name}": t for name, t in self.task.weights().items()}
        rest = {f"optimizer/{name}": t for name, t in self.task.optimizer_state().items()}
        return {**weights, **rest, **{f"best/{name}": t for name, t in self.best.items()}}

    def _bytes(self) -> int:
        """Size of a checkpoint of this rank."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._state().values())

    def _save(self) -> None:
        """Write a checkpoint, each rank what it alone has; all learn whether it is whole."""
        started = time.monotonic()
        self._pulse.writes(self.progress.step, self._bytes())
        self._count_seconds()
        path = checkpoint.save(
            self.folder, self.progress.step, self._state(), asdict(self.progress), self.ranks,
            self.placed,
        )  # fmt: skip
        if self.ranks.rank == 0:
            self.messenger.send(Saved(path=str(path), step=self.progress.step))
        self._saved_at = time.monotonic()
        self.progress.save_seconds += self._saved_at - started

    def _count_seconds(self) -> None:
        """Bring the clocks of the progress up to now; every rank must call it."""
        now = time.monotonic()
        self.progress.seconds += now - self._since
        self._since = now
        used = time.process_time()
        total = torch.tensor([used - self._cpu_since])
        self.ranks.sum(total)
        self.progress.cpu_seconds += float(total)
        self._cpu_since = used

    def _tell(self, steps: int) -> None:
        """Progress and training loss, at most twice a second and after each epoch's last step."""
        now = time.monotonic()
        progress = self.progress
        epoch, done = divmod(progress.step - 1, steps)
        if self.ranks.rank or (now - self._told_at < REPORT_S and done + 1 < steps):
            return
        # Validations and checkpoints are no training: their time is taken out of the speed.
        paused = progress.paused_seconds
        seconds = now - self._told_at - (paused - self._paused)
        self._told_at, self._paused = now, paused
        rows = self.data.source.rows
        self.messenger.send(
            ProgressMessage(phase=f"epoch {epoch + 1}/{self.plan.epochs}",
                            done=min(rows, (done + 1) * self.plan.batch_size), total=rows)
        )  # fmt: skip
        for name, value in (
            ("loss", self._loss / self._loss_rows), ("rows_per_second", self._loss_rows / seconds)
        ):  # fmt: skip
            point = Scalar(name=name, value=value, split="train", step=progress.step,
                           rows=progress.rows, epoch=progress.step / steps)  # fmt: skip
            self.messenger.send(point)
        self._loss, self._loss_rows = 0.0, 0
