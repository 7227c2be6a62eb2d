"""What the workers do with Intel Extension for PyTorch, by a stand-in with torch's own arithmetic.

The extension itself is in no test environment: bench/ipex.py compares its numbers with torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models import cpu, ipex
from models.dlrm.network import Dlrm, initialize
from models.dlrm.serving import eager, forms
from models.dlrm.settings import SETTINGS
from models.loop_dense import DenseParameters
from models.settings import resolve
from models.worker import WorkFailed
from tests.models.training_data import messages, result, run_here, train_spec, write_data


class StandIn:
    """The extension's interface on stock torch."""

    version, note = "0", "a stand-in"

    def fused_step(
        self, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> Callable[[float], None]:
        def step(rate: float) -> None:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()

        return step

    def for_inference(self, network: nn.Module) -> None:
        network.eval()

    def traced(self, network: nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
        with torch.inference_mode():
            return torch.jit.freeze(torch.jit.trace(network.eval(), example))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), {"train": 1050, "valid": 300, "test": 300})


def test_a_worker_without_it_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"avx2"})
    assert run_here(train_spec(tmp_path, data, ipex=True), tmp_path, monkeypatch) == 1
    (problem,) = messages(tmp_path, "problem")
    assert problem["what"] == "this environment has no Intel Extension for PyTorch"
    assert "aiok env install ipex" in problem["todo"]
    assert not list((tmp_path / "output").iterdir())


def test_a_cpu_without_avx2_and_a_broken_installation_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"sse2"})
    with pytest.raises(WorkFailed, match="needs a CPU with AVX2") as caught:
        ipex.load(True)
    assert caught.value.todo == "set train.environment=torch"
    assert ipex.load(False) is None
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"avx2"})
    (tmp_path / f"{ipex.PACKAGE}.py").write_text("raise SystemExit('ERROR! another torch')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(WorkFailed, match="cannot be loaded") as caught:
        ipex.load(True)
    assert caught.value.why == "ERROR! another torch"


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_its_optimizer_goes_on_from_our_state_and_leaves_ours(optimizer: str) -> None:
    def make() -> tuple[nn.Linear, DenseParameters]:
        torch.manual_seed(1)
        layer = nn.Linear(6, 5)
        return layer, DenseParameters(layer.parameters(), optimizer, 0.01, 2)

    def steps(dense: DenseParameters, numbers: range) -> None:
        for number in numbers:
            dense.buffer.copy_(torch.linspace(-1, 1, len(dense.buffer)) * (number + 1))
            with torch.no_grad():
                dense.step(0.05 / (number + 1))

    (_, ours), (layer, theirs) = make(), make()
    steps(ours, range(6))
    steps(theirs, range(3))
    theirs.fuse(layer, StandIn())  # type: ignore[arg-type]
    kept = theirs.state()
    steps(theirs, range(3, 6))
    torch.testing.assert_close(theirs.values, ours.values, rtol=1e-5, atol=1e-6)
    for name, tensor in ours.state().items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-5, atol=1e-6)
    assert layer.weight.data_ptr() == theirs.values.data_ptr()


def test_a_training_with_it_is_the_same_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for name in ("without", "with"):
        work = tmp_path / name
        work.mkdir()
        extension = StandIn() if name == "with" else None
        monkeypatch.setattr(ipex, "load", lambda wanted, given=extension: given)
        assert run_here(train_spec(work, data), work, monkeypatch) == 0
        found[name] = result(work)["best"]["valid"]
    assert found["with"]["auc"] == pytest.approx(found["without"]["auc"], abs=1e-3)
    assert found["with"]["logloss"] == pytest.approx(found["without"]["logloss"], abs=1e-4)
    assert "with a stand-in" in messages(tmp_path / "with", "note")[0]["text"]
    assert "stand-in" not in messages(tmp_path / "without", "note")[0]["text"]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_the_traced_form_scores_any_number_of_rows(fused: bool) -> None:
    sizes = [9, 1, 30]
    small = {"embedding_size": 4, "bottom_widths": "8", "top_widths": "8", "fused_tables": fused}
    settings, problems = resolve(SETTINGS, small)
    assert not problems
    network = Dlrm(3, sizes, settings)
    initialize(network, sizes, 3, 0.5)
    network.eval().requires_grad_(False)
    model = {"numeric": ["a", "b", "c"], "table_sizes": sizes, "settings": settings}
    form = forms(network, model, StandIn())[-1]  # type: ignore[arg-type]
    assert form.name == ipex.FORM
    score = form.load(Path(), 1)
    rng = np.random.default_rng(1)
    for rows in (1, 7, 300, 2):
        numeric = rng.random((rows, 3), dtype=np.float32)
        ids = np.stack([rng.integers(0, size, rows, dtype=np.int32) for size in sizes], 1)
        expected = eager(network)(numeric, ids)
        np.testing.assert_allclose(score(numeric, ids), expected, rtol=1e-5, atol=1e-6)
