"""Turns a trained model into a bundle for inference: python -m models.inference.export spec.json

Every form of the network that the model offers is converted, scored on the validation rows and
timed beside the eager network on the same processors. The fastest one that loses no more than
`max_metric_drop` is kept; when none beats the eager network, that one is.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from models import cpu
from models.inference import bundle
from models.inference.scoring import (
    PRECISION,
    Array,
    Form,
    Score,
    compiled,
    convert,
    one_by_one,
    stream,
)  # fmt: skip
from models.messages import Messenger, Note, Progress
from models.metrics import auc, logloss
from models.recdp.blocks import Blocks, Manifest
from models.worker import InputProblem, StopFlag, run

BATCH_SIZE = 1024
REPEATS = 5
LARGEST_LOGIT_DIFFERENCE = 0.01  # above this the fp32 graph is another function: a wrong conversion
_PASS_SECONDS, _PASS_BATCHES = 0.4, (8, 128)

Way = Callable[[Score, Iterable[tuple[Array, Array]], int], Iterator[Array]]


@dataclass
class Trial:
    """One way to score, what it costs in quality, and how fast it is."""

    name: str
    score: Score
    way: Way
    auc: float = math.nan
    logloss: float = math.nan
    drop: float = 0.0
    largest_difference: float = 0.0
    speeds: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    @property
    def rows_per_second(self) -> float:
        """Median over the repeats."""
        return statistics.median(self.speeds)

    def to_json(self) -> dict[str, Any]:
        """The measurements, for bundle.json."""
        return {
            "name": self.name, "auc": _finite(self.auc), "logloss": _finite(self.logloss),
            "metric_drop": self.drop, "max_logit_difference": self.largest_difference,
            "rows_per_second": self.rows_per_second, "repeats": self.speeds,
            "cpu_ms_per_batch": statistics.median(self.cpu_ms),
        }  # fmt: skip


def work(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """Write the bundle into spec["output"] and return the step's figures."""
    threads, output = int(spec["threads"]), Path(spec["output"])
    cpu.prepare(threads, False)
    serving = import_module(bundle.serving_module(str(spec["model"])))
    network, model = serving.load_network(spec["weights"])
    manifest = Manifest.load(spec["data"])
    _check_match(manifest, model)
    rows = _validation_rows(manifest)

    score = serving.eager(network)
    eager = [Trial("torch", score, one_by_one), Trial("torch, batches in parallel", score, stream)]
    exported = []
    forms: tuple[Form, ...] = serving.forms(network, model)
    for done, form in enumerate(forms):
        messenger.send(Progress(phase="convert", done=done, total=len(forms), unit="forms"))
        stop.check()
        path = convert(form, output)
        exported.append(Trial(form.name, compiled(form, path, threads), stream))

    _judge([*eager, *exported], rows, str(spec["metric"]), threads, messenger, stop)
    _measure([*eager, *exported], rows, threads, messenger, stop)
    baseline = max(eager, key=lambda trial: trial.rows_per_second)
    kept = _choose(baseline, exported, float(spec["max_metric_drop"]), messenger)
    _drop_unused(output, forms, kept.name)
    figures = _finish(output, spec, manifest, baseline, kept, [*eager, *exported])
    return {**figures, **asdict(serving.inference(network, "fp32"))}


def _check_match(manifest: Manifest, model: dict[str, Any]) -> None:
    for name in ("table_sizes", "numeric", "categorical"):
        if list(getattr(manifest, name)) != list(model[name]):
            raise InputProblem(
                f"the model and the data in {manifest.folder} differ in {name}",
                "a bundle joins the dictionaries of the data with the tables of the model",
                "give the data that the model was trained on",
            )


def _validation_rows(manifest: Manifest) -> Blocks:
    for split in ("valid", "train"):
        rows = manifest.split(split)
        if rows.rows:
            return rows
    raise InputProblem(f"{manifest.folder} has no validation rows to compare the forms on")


def _batches(rows: Blocks) -> Iterator[tuple[Array, Array]]:
    for numeric, ids, _ in rows.batches(BATCH_SIZE):
        yield np.array(numeric), np.array(ids)


def _judge(
    trials: list[Trial], rows: Blocks, metric: str, threads: int, messenger: Messenger,
    stop: StopFlag,
) -> None:  # fmt: skip
    """Score the validation rows by every way; fills in quality, drop and logit difference."""
    labels = np.concatenate([label for _, _, label in rows.batches(1 << 16)])
    reference: Array | None = None
    for done, trial in enumerate(trials):
        messenger.send(Progress(phase="compare", done=done, total=len(trials), unit="forms"))
        stop.check()
        logits = np.concatenate(list(trial.way(trial.score, _batches(rows), threads)))
        trial.auc, trial.logloss = auc(labels, logits), logloss(labels, logits)
        reference = logits if reference is None else reference
        trial.largest_difference = float(np.max(np.abs(logits - reference)))
        first = trials[0]
        if metric == "logloss" or math.isnan(first.auc):  # one class only: no AUC
            trial.drop = trial.logloss - first.logloss
        else:
            trial.drop = first.auc - trial.auc


def _measure(
    trials: list[Trial], rows: Blocks, threads: int, messenger: Messenger, stop: StopFlag
) -> None:
    """Time every way on the same batches, in turns, so that a busy moment hits all of them."""
    count = _PASS_BATCHES[1]
    places = np.arange(count * BATCH_SIZE) % rows.rows
    numeric, ids, _ = rows.read(0, min(rows.rows, count * BATCH_SIZE))
    chosen = [places[i : i + BATCH_SIZE] for i in range(0, len(places), BATCH_SIZE)]
    batches = [(np.ascontiguousarray(numeric[at]), np.ascontiguousarray(ids[at])) for at in chosen]
    slowest = max(_seconds(trial, batches[: _PASS_BATCHES[0]], threads)[0] for trial in trials)
    count = int(_PASS_SECONDS / slowest * _PASS_BATCHES[0])
    batches = batches[: min(max(count, _PASS_BATCHES[0]), _PASS_BATCHES[1])]
    for repeat in range(REPEATS):
        messenger.send(Progress(phase="measure", done=repeat, total=REPEATS, unit="repeats"))
        for trial in trials:
            stop.check()
            seconds, cpu_seconds = _seconds(trial, batches, threads)
            trial.speeds.append(len(batches) * BATCH_SIZE / seconds)
            trial.cpu_ms.append(cpu_seconds * 1e3 / len(batches))
    messenger.send(Progress(phase="measure", done=REPEATS, total=REPEATS, unit="repeats"))


def _seconds(trial: Trial, batches: list[tuple[Array, Array]], threads: int) -> tuple[float, float]:
    """Wall and CPU seconds to score the batches."""
    wall, used = time.perf_counter(), time.process_time()
    for _ in trial.way(trial.score, batches, threads):
        pass
    return time.perf_counter() - wall, time.process_time() - used


def _choose(baseline: Trial, exported: list[Trial], max_drop: float, messenger: Messenger) -> Trial:
    best = baseline
    for trial in sorted(exported, key=lambda one: one.rows_per_second):
        ratio = trial.rows_per_second / baseline.rows_per_second
        if trial.largest_difference > LARGEST_LOGIT_DIFFERENCE:
            why = f"not kept: its logits differ by up to {trial.largest_difference:.3g}"
        elif trial.drop > max_drop:
            why = f"not kept: it loses {trial.drop:.5f}, more than {max_drop:g}"
        elif trial.rows_per_second <= baseline.rows_per_second:
            why = "not kept: not faster than the eager network"
        else:
            best, why = trial, f"metric drop {max(trial.drop, 0.0):.6f}"
        messenger.send(Note(text=f"{trial.name}: {ratio:.2f}x the eager network, {why}"))
    messenger.send(Note(text=f"kept for inference: {best.name}, precision {PRECISION}"))
    return best


def _drop_unused(output: Path, forms: tuple[Form, ...], kept: str) -> None:
    """The whole graph always stays: other OpenVINO programs can read it. Others only if kept."""
    for form in forms[1:]:
        if form.name != kept:
            for suffix in (".xml", ".bin"):
                (output / f"{form.file}{suffix}").unlink(missing_ok=True)


def _finish(
    output: Path, spec: dict[str, Any], manifest: Manifest, baseline: Trial, kept: Trial,
    trials: list[Trial],
) -> dict[str, Any]:  # fmt: skip
    form = kept.name if kept is not baseline else "torch"
    bundle.gather(output, Path(spec["weights"]), manifest)
    size = bundle.seal(output, {
        "model": spec["model"],
        "form": form,
        "precision": PRECISION,
        "format": spec["dataset"]["format"],
        "label": manifest.label,
        "numeric": list(manifest.numeric),
        "categorical": list(manifest.categorical),
        "columns": spec["dataset"].get("columns"),
        "table_sizes": list(manifest.table_sizes),
        "transform": dict(manifest.transform),
        "metric": spec["metric"],
        "max_metric_drop": spec["max_metric_drop"],
        "measured": {"threads": int(spec["threads"]), "batch_size": BATCH_SIZE,
                     "eager": baseline.name, "ways": [trial.to_json() for trial in trials]},
    })  # fmt: skip
    return {
        "bundle": str(output),
        "form": form,
        "auc_eager": _finite(baseline.auc),
        "auc_exported": _finite(kept.auc),
        "auc_drop": _finite(baseline.auc - kept.auc),
        "max_logit_difference": kept.largest_difference,
        "rows_per_second_eager": baseline.rows_per_second,
        "rows_per_second": kept.rows_per_second,
        "speedup": kept.rows_per_second / baseline.rows_per_second,
        "batch_size": BATCH_SIZE,
        "bytes": size,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(run(work))
