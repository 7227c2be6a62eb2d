"""What all baselines share: their spec, and the files they write, the same as those of our ETL.

A baseline is `python -m bench.baselines.NAME spec.json`, spec = {paths, split, min_count, output,
cores}: raw click logs in, training data out (models/README.md), all rows of a split in one block.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.recdp.blocks import SPLITS, Array, Manifest, write_block
from models.recdp.criteo import CATEGORICAL, LABEL, NUMERIC
from models.recdp.dictionary import FOLDER
from models.recdp.sources import find_files
from models.recdp.split import Split


@dataclass(frozen=True)
class Job:
    """What to do. `output` holds an empty folder for the dictionaries."""

    files: list[str]
    split: Split
    min_count: int
    output: Path
    cores: int

    @classmethod
    def read(cls) -> Job:
        """From the file named on the command line."""
        spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
        output = Path(spec["output"])
        (output / FOLDER).mkdir(parents=True)
        return cls([str(file) for file in find_files(spec["paths"])], Split.parse(spec["split"]),
                   spec["min_count"], output, spec["cores"])  # fmt: skip

    def dictionary(self, column: str) -> Path:
        """Where the dictionary of a column goes: value, id, count by id."""
        return self.output / FOLDER / f"{column}.parquet"

    def save(self, numeric: Array, ids: Array, label: Array, sizes: list[int]) -> None:
        """Write blocks and manifest. numeric float32 [n, 13], ids int32 [n, 26], label uint8 [n];
        `sizes`: entries of each dictionary."""
        borders = (0, *self.split.borders(len(label)), len(label))
        cuts = [slice(*borders[part : part + 2]) for part in range(len(SPLITS))]
        with ThreadPoolExecutor(self.cores) as pool:
            blocks = list(pool.map(
                lambda name, cut: write_block(
                    self.output, name, numeric[cut], ids[cut], label[cut]
                ), SPLITS, cuts,
            ))  # fmt: skip
        Manifest(
            folder=self.output, label=LABEL, numeric=NUMERIC, categorical=CATEGORICAL,
            table_sizes=tuple(size + 1 for size in sizes),
            splits={name: (block,) for name, block in zip(SPLITS, blocks, strict=True)},
            transform={"numeric": "log1p(max(x,0))", "min_count": self.min_count},
        ).save()  # fmt: skip
