"""The ETL as a Polars job: `python -m bench.baselines.polars_etl spec.json`.

One scan of the text by the streaming engine, the 26 dictionaries in one collect, the ids by
replace_strict in one select. Slower on 1 M rows: left joins with maintain_order (1.5x the
CPU-seconds of that step), hex digits parsed to integers or text cast to Categorical first (the scan
lost more than the rest won), the in-memory engine.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from bench.baselines.output import Job
from models.recdp.criteo import CATEGORICAL, COLUMNS, LABEL, NUMERIC


def main() -> None:
    """Raw text to training data."""
    job = Job.read()
    table = scan(job).collect(engine="streaming")
    training = job.split.borders(len(table))[0]
    dictionaries = count(table.slice(0, training), job.min_count)
    encoded = table.select(
        pl.col(name).replace_strict(
            entries["value"], entries["id"], default=0, return_dtype=pl.Int32
        )
        for name, entries in dictionaries.items()
    )  # fmt: skip
    for name, entries in dictionaries.items():
        entries.select("value", "id", "count").write_parquet(job.dictionary(name))
    job.save(
        np.ascontiguousarray(table.select(NUMERIC).to_numpy()),
        np.ascontiguousarray(encoded.to_numpy()), table[LABEL].to_numpy(),
        [len(entries) for entries in dictionaries.values()],
    )  # fmt: skip


def scan(job: Job) -> pl.LazyFrame:
    """Label, numbers as the model reads them, categories as text; a missing one is null."""
    schema = {name: pl.String() for name in COLUMNS} | {LABEL: pl.UInt8()}
    schema |= {name: pl.Int32() for name in NUMERIC}
    lines = pl.scan_csv(
        job.files, separator="\t", has_header=False, schema=schema, quote_char=None
    )  # fmt: skip
    numbers = pl.col(NUMERIC).fill_null(0).clip(0).cast(pl.Float64).log1p().cast(pl.Float32)
    return lines.with_columns(numbers)


def count(training: pl.DataFrame, min_count: int) -> dict[str, pl.DataFrame]:
    """By column value, id, count: ids by count descending, then value."""
    counted = [
        training.lazy().select(value=pl.col(name)).drop_nulls()
        .group_by("value").agg(count=pl.len().cast(pl.Int64))
        .filter(pl.col("count") >= min_count)
        .sort("count", "value", descending=[True, False])
        .with_columns(id=pl.int_range(1, pl.len() + 1, dtype=pl.Int32))
        for name in CATEGORICAL
    ]  # fmt: skip
    return dict(zip(CATEGORICAL, pl.collect_all(counted), strict=True))


if __name__ == "__main__":
    main()
