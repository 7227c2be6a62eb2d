"""A small sample of the files tells how many rows and ids there are."""

from __future__ import annotations

import gzip
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from engine import sample
from engine.facts import data_facts
from engine.recipe import Dataset
from engine.sample import DataFacts, IdColumn, look

ROWS = 60_000
COLUMNS = {"label": "y", "numeric": ["n"], "categorical": ["few", "tail", "key"]}


def lines(rows: int, separator: str) -> list[str]:
    draw = random.Random(1)
    found = [separator.join(("y", "n", "few", "tail", "key"))]
    for number in range(rows):
        tail = int(draw.paretovariate(0.7))  # ids grow like rows ** 0.7
        cells = (int(draw.random() < 0.2), draw.random(), f"f{draw.randrange(30)}", f"t{tail}",
                 f"k{number}")  # fmt: skip
        found.append(separator.join(map(str, cells)))
    return found


def facts_of(folder: Path, **dataset: object) -> DataFacts:
    given = {"format": "table", "path": str(folder), "columns": COLUMNS, **dataset}
    return look(Dataset.model_validate(given), data_facts(sorted(folder.iterdir())))


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".tsv.gz"])
def test_rows_ids_and_label_balance_are_told(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "PIECE_BYTES", 1 << 15)  # a seventh of the text
    text = lines(ROWS, "," if ending == ".csv" else "\t")
    half = ROWS // 2
    for part, rows in enumerate((text[: half + 1], [text[0], *text[half + 1 :]])):
        data = ("\n".join(rows) + "\n").encode()
        path = tmp_path / f"part-{part}{ending}"
        path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    begun = time.process_time()
    found = facts_of(tmp_path)
    assert time.process_time() - begun < 2.0  # the plan waits for it
    assert found.rows == pytest.approx(ROWS, rel=0.03)
    assert 1000 < found.sampled < ROWS / 4
    assert found.label_rate == pytest.approx(0.2, abs=0.02)
    few, tail, key = found.ids
    assert (few.distinct, few.growth) == (30, 0.0)
    counts = Counter(line.split("," if ending == ".csv" else "\t")[3] for line in text[1:])
    assert tail.entries(ROWS, 1) == pytest.approx(len(counts), rel=0.4)
    often = sum(count > 1 for count in counts.values())
    assert tail.entries(ROWS, 2) == pytest.approx(often, rel=0.4)
    assert key.entries(ROWS, 1) == pytest.approx(ROWS, rel=0.05)
    assert key.entries(ROWS, 2) == 0.0
    assert f"by a sample of {found.sampled:,}" in found.sentence()
    assert "3 id columns" in found.sentence() and "% positive" in found.sentence()


def test_ids_that_are_seen_often_enough_follow_the_law_of_their_growth() -> None:
    column = IdColumn("c", known=1000, distinct=100, growth=0.5)
    assert column.entries(4000, 1) == pytest.approx(200.0)
    assert column.entries(4000, 2) == pytest.approx(100.0)
    assert column.entries(4000, 3) == pytest.approx(75.0)
    assert column.entries(4000, 10**9) < 10
    assert IdColumn("empty", 0, 0, 0.0).entries(4000, 1) == 0.0


def test_generated_data_are_known_without_a_file() -> None:
    made = look(Dataset.model_validate({"generate": {"rows": 300_000}}), [])
    assert (made.rows, made.exact, made.numeric, made.categorical) == (300_000, True, 13, 26)
    # counted: 83,634 ids in 240,000 training rows, 44,072 of them at least twice
    assert made.entries(1, 0.8) == pytest.approx(83_634, rel=0.15)
    assert made.entries(2, 0.8) == pytest.approx(44_072, rel=0.15)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", b"\xff\xfe\x00\x01" * 5000), ("a.tsv", b"one line without an end"),
        ("a.tsv.gz", b"\x1f\x8bno gzip at all"), ("a.tsv.gz", gzip.compress(b"x\n" * 99)[:20]),
        ("a.csv", b'"' * 70_000), ("a.parquet", b"PAR1" * 100), ("a.tsv", b"\n" * 50_000),
        ("a.csv", b"y,n\n" + b"1\x00,2\n" * 500), ("a.tsv", b"y\tfew\n" + b"1\t" * 400_000),
    ],
)  # fmt: skip
def test_damaged_files_are_left_to_the_etl(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = facts_of(tmp_path)
    assert found.rows >= 1 and found.entries(2) >= 0.0
    assert found.sentence().startswith("about ")


def test_criteo_text_needs_no_header(tmp_path: Path) -> None:
    row = "\t".join(["1", *map(str, range(13)), *(f"{i:08x}" for i in range(26))])
    (tmp_path / "day.txt").write_text(f"{row}\n" * 20_000)
    found = facts_of(tmp_path, format="criteo", columns=None)
    assert found.rows == pytest.approx(20_000, rel=0.01)
    assert len(found.ids) == 26 and all(column.top == 1.0 for column in found.ids)
    assert found.label_rate == 1.0


def test_the_sample_is_small_however_many_files_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        (tmp_path / f"{number:02d}.tsv").write_text("\n".join(lines(200, "\t")) + "\n")
    monkeypatch.setattr(sample, "PIECE_BYTES", 1000)
    found = facts_of(tmp_path)
    assert found.sampled < 8 * 50
    assert found.rows == pytest.approx(40 * 200, rel=0.1)
