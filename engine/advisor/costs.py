"""The built-in constants of the estimates: what holds before anything was measured on a host."""

from __future__ import annotations

START_S = {"etl": 5.0, "spark": 25.0, "torch": 8.0, "ipex": 12.0}
START_CPU_S = {"etl": 1.0, "spark": 15.0, "torch": 2.2, "ipex": 4.0}  # of one process
ENVIRONMENT_MINUTES = {"etl": 0.5, "spark": 1.5, "torch": 1.5, "ipex": 4.0, "sigopt": 0.5}
DISK_GIB = {"data": 0.24, "etl": 0.16, "train": 0.02}  # output of a step for a million rows
CHECKPOINT_GIB = 0.03  # for a million rows: weights, the best ones, the optimizer's state
# scripts/bench spark with 0.1 M and 1 M rows on three hosts that share two cores: the step took 42
# and 52 s, 68 and 87 CPU-seconds of all hosts, on Sail 1.2 and 3.6.
SPARK_START_S = 41.0
SPARK_HOST_CPU_S = 17.0  # CPU-seconds of worker, executor and its Python on each host
SPARK_COST = 7.0  # CPU-seconds of a row on Spark for one on Sail
SPARK_HOST_GIB = 1.0  # memory of worker, executor and its Python on each host
JAVA_GIB = 0.081  # a runtime made by jlink
CRITEO_COLUMNS = 39  # the prices of rows are those of rows with so many columns
# Memory in GiB: of a process with its libraries, and for a million rows
PROCESS_GIB = {"data": 0.15, "etl": 0.5, "roofline": 0.6, "train": 0.35, "evaluate": 0.4,
               "optimize": 0.7}  # fmt: skip
ROWS_GIB = {"data": 0.05, "etl": 0.4, "train": 0.16, "evaluate": 0.1, "optimize": 0.1}
ID_GIB = {"etl": 0.1, "evaluate": 0.1, "optimize": 0.3}  # a million ids
ROOFLINE_S, TRIALS_S = 3.0, 20.0  # CPU-seconds of the peaks, and of the forms that are tried
DICTIONARY_S = 4.0  # CPU-seconds of the ETL for a million ids
