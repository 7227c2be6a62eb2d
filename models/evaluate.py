"""`python -m models.evaluate spec.json`: one pass over the test rows.

The keys of the spec: models/README.md.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from models import cpu, ipex
from models.dist import Ranks
from models.loop_score import scored
from models.messages import Messenger, Progress
from models.metrics import auc, logloss
from models.train import model_settings
from models.worker import InputProblem, StopFlag, run

REPORT_S = 0.5


def evaluate(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """Score every row of the split once; writes scores.npy and metrics.json into `output`."""
    model, _ = model_settings({"model": spec["model"]})
    extension = ipex.load(bool(spec.get("ipex")))
    cpu.prepare(int(spec["threads"]), keep_memory=True)
    task = import_module(f"models.{model.name}.task").load_scorer(spec["weights"], spec["data"])
    if extension:
        task.accelerate(extension)
    rows = task.rows(spec["split"])
    if not rows.rows:
        raise InputProblem(f"{spec['data']} has no {spec['split']} rows", todo="check the split")
    started = told_at = time.monotonic()
    labels = np.empty(rows.rows, np.uint8)
    logits = np.empty(rows.rows, np.float32)
    done = 0
    for part, scores in scored(task, rows, Ranks(0, 1), int(spec["batch_size"])):
        stop.check()
        labels[done : done + len(part)], logits[done : done + len(part)] = part, scores
        done += len(part)
        if time.monotonic() - told_at >= REPORT_S or done == rows.rows:
            told_at = time.monotonic()
            messenger.send(Progress(phase=spec["split"], done=done, total=rows.rows))
    values = {
        "auc": auc(labels, logits), "logloss": logloss(labels, logits), "rows": rows.rows,
        "seconds": time.monotonic() - started, **truth(spec.get("truth"), rows.rows),
    }  # fmt: skip
    np.save(Path(spec["output"]) / "scores.npy", logits)
    (Path(spec["output"]) / "metrics.json").write_text(json.dumps(values), encoding="utf-8")
    return values


def truth(folder: str | None, rows: int) -> dict[str, float | None]:
    """bayes_auc and ceiling_auc of generated data; null for data whose truth is not known."""
    if folder is None:
        return {"bayes_auc": None, "ceiling_auc": None}
    path = Path(folder) / "truth.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(known[name]) for name in ("bayes_auc", "ceiling_auc")}
    except (OSError, ValueError, KeyError) as error:
        raise InputProblem(
            f"cannot read the truth of generated data: {path}: {error}", todo="generate it again"
        ) from error


if __name__ == "__main__":
    sys.exit(run(evaluate))
