"""Turns a trained model into a bundle for inference: python -m models.inference.export spec.json

Every form of the network that the model offers and this CPU may gain from is written, scored on
the validation rows and timed beside the eager network on the same processors. The fastest one
that loses no more than `max_metric_drop` is kept; when none beats the eager network, that one is.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from models import cpu, ipex
from models.inference import bundle
from models.inference.curves import measure_curves
from models.inference.scoring import FP32, Array, Form, one_by_one, stream
from models.inference.trial import BATCH_SIZE, TIMED_ROWS, Trial, finite, measure
from models.messages import Messenger, Note, Progress
from models.metrics import auc, logloss
from models.recdp.blocks import Blocks, Manifest
from models.worker import InputProblem, StopFlag, run

LARGEST_LOGIT_DIFFERENCE = 0.01  # above this an fp32 form is another function: a wrong conversion
SAMPLE_ROWS = 4096  # training rows that forms may look at
EAGER = "torch"


def work(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """Write the bundle into spec["output"] and return the step's figures."""
    threads, output = int(spec["threads"]), Path(spec["output"])
    extension = ipex.load(bool(spec.get("ipex")))
    cpu.prepare(threads, True)
    serving = import_module(bundle.serving_module(str(spec["model"])))
    network, model = serving.load_network(spec["weights"])
    manifest = Manifest.load(spec["data"])
    _check_match(manifest, model)
    rows = _rows(manifest, "valid", "train")

    score = serving.eager(network)
    eager = Trial("torch, batch by batch", FP32, score, one_by_one)
    streams = Trial(EAGER, FP32, score, stream)
    forms: tuple[Form, ...] = serving.forms(network, model, extension)
    offered = [form for form in forms if form.may_gain(cpu.cpu_flags())]
    exported = _exported(offered, manifest, output, threads, messenger, stop)

    trials = [eager, streams, *exported]
    _judge(trials, rows, str(spec["metric"]), threads, messenger, stop)
    batches = _repeated(rows)
    measure(trials, batches, threads, messenger, stop)
    # Threads at one batch wait for each other, and where others take their cores that costs many
    # times what was taken: a gain over the better of both eager ways is one on a busy machine, too.
    baseline = max((eager, streams), key=lambda trial: trial.rows_per_second)
    others = [trial for trial in trials if trial is not baseline]
    kept = _choose(baseline, others, float(spec["max_metric_drop"]), messenger)
    curves = measure_curves({"eager": eager, "kept": kept}, batches, threads, messenger, stop)
    _drop_unused(output, forms, kept.name)
    figures = _finish(output, spec, manifest, kept, trials, curves)
    needed = asdict(serving.inference(network, kept.precision))
    needed["flops_per_row"] -= kept.saved
    return {**figures, **needed}


def _exported(
    forms: list[Form], manifest: Manifest, output: Path, threads: int, messenger: Messenger,
    stop: StopFlag,
) -> list[Trial]:  # fmt: skip
    """Write the forms, each file once, and load them as a user of the bundle does.

    Forms that found nothing to gain and wrote nothing are left out.
    """
    sample = _rows(manifest, "train", "valid")
    numeric, ids, _ = (np.array(part) for part in sample.read(0, min(sample.rows, SAMPLE_ROWS)))
    trials = []
    for done, form in enumerate(forms):
        messenger.send(Progress(phase="convert", done=done, total=len(forms), unit="forms"))
        stop.check()
        if not all((output / name).exists() for name in form.files):
            form.write(output, numeric, ids)
        if all((output / name).exists() for name in form.files):
            score = form.load(output, threads)
            trials.append(Trial(form.name, form.precision, score, stream, form.approximate,
                                form.saved(output)))  # fmt: skip
    return trials


def _check_match(manifest: Manifest, model: dict[str, Any]) -> None:
    for name in ("table_sizes", "numeric", "categorical"):
        if list(getattr(manifest, name)) != list(model[name]):
            raise InputProblem(
                f"the model and the data in {manifest.folder} differ in {name}",
                "a bundle joins the dictionaries of the data with the tables of the model",
                "give the data that the model was trained on",
            )


def _rows(manifest: Manifest, *splits: str) -> Blocks:
    """The first of the splits that has rows."""
    for split in splits:
        rows = manifest.split(split)
        if rows.rows:
            return rows
    raise InputProblem(f"{manifest.folder} has no validation rows to compare the forms on")


def _batches(rows: Blocks) -> Iterator[tuple[Array, Array]]:
    for numeric, ids, _ in rows.batches(BATCH_SIZE):
        yield np.array(numeric), np.array(ids)


def _repeated(rows: Blocks) -> tuple[Array, Array]:
    """Rows to time on, again from the start where there are too few."""
    places = np.arange(TIMED_ROWS) % rows.rows
    numeric, ids, _ = rows.read(0, min(rows.rows, TIMED_ROWS))
    return np.ascontiguousarray(numeric[places]), np.ascontiguousarray(ids[places])


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


def _choose(eager: Trial, trials: list[Trial], max_drop: float, messenger: Messenger) -> Trial:
    """The fastest trial that may be kept, else `eager`; every verdict is a note."""
    best, eager.verdict = eager, "the baseline"
    for trial in sorted(trials, key=lambda one: one.rows_per_second):
        ratio = trial.rows_per_second / eager.rows_per_second
        exact = trial.precision == FP32 and not trial.approximate
        if exact and trial.largest_difference > LARGEST_LOGIT_DIFFERENCE:
            why = f"not kept: its logits differ by up to {trial.largest_difference:.3g}"
        elif not trial.drop <= max_drop:  # true for what is no number, too
            why = f"not kept: it loses {trial.drop:.5f}, more than {max_drop:g}"
        elif trial.rows_per_second <= eager.rows_per_second:
            why = "not kept: not faster than the eager network"
        else:
            best, why = trial, f"metric drop {max(trial.drop, 0.0):.6f}"
        trial.verdict = why
        messenger.send(Note(text=f"{trial.name} ({trial.precision}): {ratio:.2f}x the eager "
                                 f"network, {why}"))  # fmt: skip
    messenger.send(Note(text=f"kept for inference: {best.name}, precision {best.precision}"))
    return best


def _drop_unused(output: Path, forms: tuple[Form, ...], kept: str) -> None:
    """The whole graph always stays: other OpenVINO programs can read it. Others only if kept."""
    wanted = set(forms[0].files)
    wanted.update(name for form in forms if form.name == kept for name in form.files)
    for name in {name for form in forms for name in form.files} - wanted:
        (output / name).unlink(missing_ok=True)


def _finish(
    output: Path, spec: dict[str, Any], manifest: Manifest, kept: Trial, trials: list[Trial],
    curves: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:  # fmt: skip
    eager, streams = trials[:2]
    form = kept.name if kept is not eager else EAGER
    bundle.gather(output, Path(spec["weights"]), manifest)
    size = bundle.seal(output, {
        "model": spec["model"],
        "form": form,
        "precision": kept.precision,
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
                     "ways": [trial.to_json() for trial in trials], "curves": curves},
    })  # fmt: skip
    return {
        "bundle": str(output),
        "form": form,
        "precision": kept.precision,
        "auc_eager": finite(eager.auc),
        "auc_exported": finite(kept.auc),
        "auc_drop": finite(eager.auc - kept.auc),
        "max_logit_difference": kept.largest_difference,
        "rows_per_second_eager": eager.rows_per_second,
        "rows_per_second_eager_streams": streams.rows_per_second,
        "rows_per_second": kept.rows_per_second,
        "speedup": kept.rows_per_second / max(eager.rows_per_second, streams.rows_per_second),
        "batch_size": BATCH_SIZE,
        "bytes": size,
        "forms": [{key: value for key, value in trial.to_json().items()
                   if key in ("name", "precision", "rows_per_second", "metric_drop", "verdict")}
                  for trial in trials],
        "curves": curves,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(work))
