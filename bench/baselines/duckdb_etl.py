"""The ETL as a DuckDB job: `python -m bench.baselines.duckdb_etl spec.json`.

The text goes into a table in memory with categories as integers; 26 tables of counts; one query
with 26 left joins, ordered by row. Slower on 1 M rows: categories as text (1.3x the CPU-seconds
of the whole), one query a column (1.3x those of the joins).
"""

from __future__ import annotations

import duckdb
import numpy as np

from bench.baselines.output import Job
from models.recdp.criteo import CATEGORICAL, COLUMNS, LABEL, NUMERIC


def main() -> None:
    """Raw text to training data."""
    job = Job.read()
    database = duckdb.connect(config={"threads": job.cores, "preserve_insertion_order": True})
    load(database, job.files)
    rows = database.execute("SELECT count(*) FROM log").fetchall()[0][0]
    training = job.split.borders(rows)[0]
    sizes = [count(database, job, name, training) for name in CATEGORICAL]
    label, numeric, ids = encode(database, rows)
    job.save(numeric, ids, label, sizes)


def load(database: duckdb.DuckDBPyConnection, files: list[str]) -> None:
    """Table log: label, numbers as the model reads them, categories as integers."""
    kinds = dict.fromkeys(COLUMNS, "VARCHAR") | dict.fromkeys(NUMERIC, "INTEGER")
    numbers = (f"ln(1 + greatest(coalesce({name}, 0), 0)::DOUBLE)::FLOAT AS {name}"
               for name in NUMERIC)  # fmt: skip
    keys = (f"('0x' || {name})::UINTEGER AS {name}" for name in CATEGORICAL)
    database.execute(
        f"CREATE TABLE log AS SELECT {LABEL}, {', '.join(numbers)}, {', '.join(keys)}"
        rf" FROM read_csv($files, delim='\t', header=false, quote='', escape='',"
        " auto_detect=false, columns=$columns)",
        {"files": files, "columns": kinds | {LABEL: "UTINYINT"}},
    )


def count(database: duckdb.DuckDBPyConnection, job: Job, name: str, training: int) -> int:
    """Table dictionary_NAME, and its file; the number of its entries."""
    database.execute(
        f"CREATE TABLE dictionary_{name} AS SELECT {name} AS key, count(*) AS count,"
        f" (row_number() OVER (ORDER BY count(*) DESC, {name}))::INTEGER AS id"
        f" FROM log WHERE rowid < {training} AND {name} IS NOT NULL GROUP BY {name}"
        f" HAVING count(*) >= {job.min_count}"
    )
    database.execute(
        f"COPY (SELECT lower(printf('%08x', key)) AS value, id, count FROM dictionary_{name}"
        f" ORDER BY id) TO '{job.dictionary(name)}' (FORMAT parquet)"
    )
    size: int = database.execute(f"SELECT count(*) FROM dictionary_{name}").fetchall()[0][0]
    return size


def encode(
    database: duckdb.DuckDBPyConnection, rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """label uint8 [n], numeric float32 [n, 13] and ids int32 [n, 26], in the order of the input."""
    joins = (f"LEFT JOIN dictionary_{name} ON log.{name} = dictionary_{name}.key"
             for name in CATEGORICAL)  # fmt: skip
    found = database.execute(
        f"SELECT {LABEL}, {', '.join(NUMERIC)},"
        f" {', '.join(f'coalesce(dictionary_{name}.id, 0) AS {name}' for name in CATEGORICAL)}"
        f" FROM log {' '.join(joins)} ORDER BY log.rowid"
    ).fetchnumpy()
    numeric = np.empty((rows, len(NUMERIC)), np.float32)
    for place, name in enumerate(NUMERIC):
        numeric[:, place] = found[name]
    ids = np.empty((rows, len(CATEGORICAL)), np.int32)
    for place, name in enumerate(CATEGORICAL):
        ids[:, place] = found[name]
    return np.asarray(found[LABEL]), numeric, ids


if __name__ == "__main__":
    main()
