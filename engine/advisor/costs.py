"""The built-in constants of the estimates: what holds before anything was measured on a host."""

from __future__ import annotations

BYTES_PER_ROW = {"criteo": 240.0, "table": 100.0}
GZIP_FACTOR = 3.5
START_S = {"etl": 5.0, "spark": 25.0, "torch": 8.0, "ipex": 12.0}
ENVIRONMENT_MINUTES = {"etl": 0.5, "spark": 1.5, "torch": 1.5, "ipex": 4.0}
DISK_GIB = {"data": 0.24, "etl": 0.16, "train": 0.02}  # output of a step for a million rows
CHECKPOINT_GIB = 0.03  # for a million rows: weights, the best ones, the optimizer's state
SPARK_START_S = 45.0  # master, workers and session over three hosts
SPARK_COST = 7.0  # CPU-seconds of a row on Spark for one on Sail: 39 s and 5.4 s for 1 M rows
