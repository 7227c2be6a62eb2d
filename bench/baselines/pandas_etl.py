"""The ETL as a pandas job: `python -m bench.baselines.pandas_etl spec.json`.

Read with the C parser, count with value_counts, encode with map, one column after the other.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.baselines.output import Job
from models.recdp.criteo import CATEGORICAL, COLUMNS, LABEL, NUMERIC


def main() -> None:
    """Raw text to training data."""
    job = Job.read()
    table = pd.concat([read(file) for file in job.files], ignore_index=True)
    training = job.split.borders(len(table))[0]
    numbers = table[list(NUMERIC)].fillna(0).clip(lower=0)
    ids = np.empty((len(table), len(CATEGORICAL)), np.int32)
    sizes = []
    for place, name in enumerate(CATEGORICAL):
        entries = count(table[name].iloc[:training], job.min_count)
        entries.to_parquet(job.dictionary(name), index=False)
        ids[:, place] = table[name].map(entries.set_index("value")["id"]).fillna(0)
        sizes.append(len(entries))
    job.save(np.log1p(numbers.to_numpy(np.float64)).astype(np.float32), ids,
             table[LABEL].to_numpy(), sizes)  # fmt: skip


def read(file: str) -> pd.DataFrame:
    """The rows of one file; a missing category is null."""
    kinds = dict.fromkeys(CATEGORICAL, "str") | {LABEL: "uint8"}
    return pd.read_csv(
        file, sep="\t", header=None, names=list(COLUMNS), dtype=kinds, na_values=[""],
        keep_default_na=False,
    )  # fmt: skip


def count(values: pd.Series, min_count: int) -> pd.DataFrame:
    """value, id, count of one column: ids by count descending, then value."""
    counts = values.value_counts(sort=False)
    entries = counts[counts >= min_count].rename_axis("value").reset_index(name="count")
    entries = entries.sort_values(["count", "value"], ascending=[False, True])
    entries.insert(1, "id", np.arange(1, len(entries) + 1, dtype=np.int32))
    return entries


if __name__ == "__main__":
    main()
