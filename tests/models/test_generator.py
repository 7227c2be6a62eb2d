"""Generated click logs: right format, repeatable, with a signal as strong as promised."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from models.dlrm import generator
from models.metrics import auc
from models.recdp.criteo import CriteoReader
from models.recdp.split import Split
from models.worker import InputProblem, StopFlag, Stopped

pytestmark = pytest.mark.environment("etl")

SPLIT = {"by": "time", "valid": 0.1, "test": 0.2}


def make(folder, recorder, rows=40_000, stop=None, **changes):
    folder.mkdir(exist_ok=True)
    spec = {"rows": rows, "seed": 5, "split": SPLIT, "output": str(folder), "cores": 1,
            "settings": {}, **changes}  # fmt: skip
    return generator.generate(spec, recorder, stop or StopFlag())


def read(folder):
    reader = CriteoReader()
    rows = reader.read(b"".join(p.read_bytes() for p in sorted(folder.glob("*.tsv"))))
    assert reader.problems.total == 0, reader.problems.listed
    return rows


def test_log_is_strictly_criteo_and_truth_belongs_to_it(tmp_path, recorder):
    result = make(tmp_path, recorder)
    rows = read(tmp_path)
    assert len(rows.label) == result["rows"] == 40_000
    assert result["bytes"] == sum(p.stat().st_size for p in tmp_path.glob("*.tsv"))
    assert result["positive_rate"] == rows.label.mean()
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["rows"] == {"train": 28_000, "valid": 4000, "test": 8000}
    logits = np.load(tmp_path / "truth.npy", allow_pickle=False)
    assert logits.shape == (8000, 2) and logits.dtype == np.float32
    test_label = rows.label[32_000:]
    assert truth["bayes_auc"] == result["bayes_auc"] == auc(test_label, logits[:, 0])
    assert truth["ceiling_auc"] == auc(test_label, logits[:, 1])
    assert 0.75 <= truth["bayes_auc"] <= 0.85
    assert 0.74 <= truth["ceiling_auc"] <= truth["bayes_auc"] + 0.01
    assert result["rare_share"] >= 0.2
    assert abs(logits.astype(float).mean() - np.log(0.27 / 0.73)) < 1  # sensible scale


def test_values_look_like_the_real_log(tmp_path, recorder):
    make(tmp_path, recorder)
    rows = read(tmp_path)
    assert rows.ints.min() < 0 and rows.ints.max() > 10_000
    assert 0.4 < rows.int_missing[:, 0].mean() < 0.5
    assert 0.7 < rows.key_missing[:, 21].mean() < 0.8
    distinct = [len(np.unique(rows.keys[:, column])) for column in range(26)]
    assert min(distinct) <= 4 and sum(d > 1000 for d in distinct) >= 5  # heavy tails
    new = ~np.isin(rows.keys[32_000:, 2], rows.keys[:20_000, 2])
    assert new.mean() > 0.02  # late rows hold new ids


def test_seed_fixes_every_byte_whatever_the_cores(tmp_path, recorder, monkeypatch):
    monkeypatch.setattr(generator, "PART_ROWS", 2 * 1024)
    monkeypatch.setattr(generator, "CHUNK_ROWS", 1024)

    def digest(name, **changes):
        make(tmp_path / name, recorder, rows=5000, **changes)
        whole = hashlib.sha256()
        for path in sorted((tmp_path / name).iterdir()):
            whole.update(path.name.encode() + path.read_bytes())
        return whole.hexdigest()

    assert digest("a") == digest("b", cores=3)
    assert digest("c", seed=6) != digest("a")


@pytest.mark.parametrize("by", ["time", "random"])
def test_ceiling_replaces_absent_ids_only(tmp_path, recorder, by):
    """Rows whose ids all occur in training have the same true and ceiling logit."""
    split = {**SPLIT, "by": by}
    make(tmp_path, recorder, rows=20_000, split=split)
    rows = read(tmp_path)
    parts = Split.parse(split).parts(0, 20_000, 20_000)
    train, test = parts == 0, parts == 2
    absent = np.zeros(test.sum(), bool)
    for column in range(26):
        known = np.unique(rows.keys[train & ~rows.key_missing[:, column], column])
        absent |= ~np.isin(rows.keys[test, column], known) & ~rows.key_missing[test, column]
    logits = np.load(tmp_path / "truth.npy")
    np.testing.assert_allclose(logits[~absent, 0], logits[~absent, 1], atol=1e-6)
    assert 0 < absent.sum() < len(absent)
    assert (np.abs(logits[absent, 0] - logits[absent, 1]) > 1e-6).mean() > 0.9


def test_bad_keys_are_refused(tmp_path, recorder):
    with pytest.raises(InputProblem, match="rows is 0"):
        make(tmp_path, recorder, rows=0)
    with pytest.raises(InputProblem, match="leaves no rows"):
        make(tmp_path, recorder, split={"by": "time", "valid": 0.5, "test": 0.5})
    with pytest.raises(InputProblem, match="no settings, found zipf"):
        make(tmp_path, recorder, settings={"zipf": 1})
    with pytest.raises(InputProblem, match="GB needed"):
        make(tmp_path, recorder, rows=10**13)


def test_stop_between_parts(tmp_path, recorder):
    stop = StopFlag()
    stop.requested = True
    with pytest.raises(Stopped):
        make(tmp_path, recorder, stop=stop)
    assert not (tmp_path / "truth.json").exists()
