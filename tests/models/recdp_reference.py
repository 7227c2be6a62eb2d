"""The ETL again, slow and plain, to compare with: pure Python over the lines of a file."""

from __future__ import annotations

from collections import Counter

import numpy as np


def prepare_lines(lines: list[str], borders: tuple[int, int], min_count: int):
    """numeric, ids, label of all rows in order, and the dictionaries, of Criteo lines."""
    fields = [line.rstrip("\n").split("\t") for line in lines]
    train = fields[: borders[0]]
    dictionaries = []
    for column in range(14, 40):
        counts = Counter(row[column].lower() for row in train if row[column])
        kept = [(value, n) for value, n in counts.items() if n >= min_count]
        kept.sort(key=lambda item: (-item[1], item[0]))
        dictionaries.append({value: (place + 1, n) for place, (value, n) in enumerate(kept)})
    numeric = np.array(
        [[np.float32(np.log1p(max(int(x or 0), 0))) for x in row[1:14]] for row in fields],
        np.float32,
    )
    ids = np.array(
        [[d.get(row[14 + c].lower(), (0, 0))[0] for c, d in enumerate(dictionaries)]
         for row in fields], np.int32,
    )  # fmt: skip
    label = np.array([int(row[0]) for row in fields], np.uint8)
    return numeric, ids, label, dictionaries
