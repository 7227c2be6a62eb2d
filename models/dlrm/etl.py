"""DLRM's ETL: `python -m models.dlrm.etl spec.json`. Keys and results: models/README.md.

DLRM wants every row as log-scaled numbers, one id a category, and a label of 0 or 1; how that is
made is the business of models.recdp.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from models.dlrm.settings import SETTINGS
from models.messages import Messenger
from models.recdp.blocks import SPLITS, Manifest
from models.recdp.prepare import Preparation, clear_work
from models.recdp.session import open_session
from models.recdp.sources import Dataset, plan_units
from models.recdp.split import Split
from models.settings import resolve
from models.worker import InputProblem, StopFlag, run

# bytes of work and output together for a byte of input (measured on the Criteo format: 0.65 + 0.65)
DISK_FACTOR = {"": 1.4, ".gz": 4.5, ".parquet": 5.0}


def check_disk(dataset: Dataset, folders: list[Path]) -> None:
    """InputProblem when the work and the training data will not fit on the disk."""
    needed = sum(
        path.stat().st_size * DISK_FACTOR.get(path.suffix.lower(), DISK_FACTOR[""])
        for path in dataset.files
    )
    for folder in folders:
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise InputProblem(
                f"{folder}: {free / 1e9:.2f} GB free, about {needed / 1e9:.2f} GB needed",
                f"the data has {dataset.bytes / 1e9:.2f} GB; intermediate files and training data"
                " come on top", "free some space, or put the run on a larger disk",
            )  # fmt: skip


def check_classes(manifest: Manifest) -> None:
    """InputProblem when a split lacks rows of one label: it can be neither learned nor scored."""
    problems = []
    for name in SPLITS:
        blocks = manifest.split(name)
        yes = blocks.positives()
        if not 0 < yes < blocks.rows:
            problems.append(f"{name}: {blocks.rows - yes:,} rows with label 0, {yes:,} with 1")
    if problems:
        raise InputProblem(
            "\n".join(problems), "train, valid and test each need rows of both labels",
            "check the label column, use more rows, or split otherwise (split.by: random)",
        )  # fmt: skip


def prepare(
    spec: dict[str, Any], messenger: Messenger, stop: StopFlag, forced: str | None = None
) -> dict[str, Any]:
    """The worker. `forced` makes all joins follow one plan (tests compare the plans)."""
    start = time.monotonic()
    values, problems = resolve(SETTINGS, spec.get("settings") or {})
    if problems:
        raise InputProblem("; ".join(problems))
    dataset = Dataset.parse(spec["dataset"])
    if dataset.columns is not None and dataset.columns.label is None:
        raise InputProblem("dataset.columns.label is missing", "training needs a label of 0 or 1")
    units = plan_units(dataset)
    split = Split.parse(spec.get("split") or {})
    work, output = Path(spec["work"]), Path(spec["output"])
    work.mkdir(parents=True, exist_ok=True)
    check_disk(dataset, [work, output])
    cores, memory_gib = int(spec.get("cores") or 1), float(spec.get("memory_gib") or 4)
    engine = str(spec.get("engine") or "sail")
    try:
        address, settings, register_s = map(spec.get, ("address", "spark", "register_s"))
        opening = open_session(engine, address, cores, memory_gib, work, settings, register_s)
        with opening as session:
            opened = time.monotonic() - start
            preparation = Preparation(
                dataset=dataset, units=units, split=split, min_count=int(str(values["min_count"])),
                memory_gib=memory_gib, work=work, output=output, session=session,
                messenger=messenger, stop=stop, forced=forced,
            )  # fmt: skip
            manifest = preparation.run()
        check_classes(manifest)
    finally:
        clear_work(work)
    rows = manifest.rows()
    seconds = time.monotonic() - start
    return {
        "rows": rows,
        "seconds": {"start": round(opened, 3), **preparation.seconds},
        "rows_per_second": sum(rows.values()) / seconds,
        "plan": [plan.to_json() for plan in preparation.plans],
        "dictionary_sizes": dict(zip(manifest.categorical, manifest.table_sizes, strict=True)),
        "engine": engine,
        "peak_rss_gib": round(preparation.peak_rss_gib, 3),
    }


if __name__ == "__main__":
    sys.exit(run(prepare))
