"""Intel Extension for PyTorch, for workers of the `ipex` environment: the one file that imports it.

Importing it swaps torch's embedding bag for its own. Beside that a training takes its fused
optimizer step, and inference its prepacked linear layers and the graph fusions of its traced form.
Weights are not prepacked while they are trained: a packed weight is no view of the flat buffer that
optimizer, checkpoints and ranks share. bf16 stays the business of the setting `precision`.

Measured on AVX2, one thread: its interaction of DLRM took 1.3 times the time of ours, its bag of
64-bit ids 2.7 times torch's. So the first is not called; the bag hands our 32-bit ids on to torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from models import cpu
from models.worker import WorkFailed

PACKAGE = "intel_extension_for_pytorch"
FORM = "ipex"  # the name of its form of a network in a bundle
# Folding batch norms, of which there are none, would turn the network into another class.
_INFERENCE = {"dtype": torch.float32, "conv_bn_folding": False, "linear_bn_folding": False}


class Extension:
    """The imported extension. `note` says what it is and what this CPU lets it use."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.version = version("intel-extension-for-pytorch")
        level = str(import_module(f"{PACKAGE}._C")._get_current_isa_level())
        self.note = f"Intel Extension for PyTorch {self.version}, its {level} kernels"

    def fused_step(
        self, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> Callable[[float], None]:
        """The fused form of `optimizer.step` for training a network, as a function of the rate."""
        _, fused = self._module.optimize(
            network.train(), dtype=torch.float32, optimizer=optimizer, inplace=True,
            weights_prepack=False,
        )  # fmt: skip

        def step(rate: float) -> None:
            fused.param_groups[0]["lr"] = rate
            fused.step()

        return step

    def for_inference(self, network: nn.Module) -> None:
        """Prepack the linear layers of a trained network, in place; its weights stay fp32."""
        self._module.optimize(network.eval(), inplace=True, **_INFERENCE)

    def traced(self, network: nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
        """A copy of a trained network, prepacked, traced and frozen, for any number of rows."""
        with torch.inference_mode():
            packed = self._module.optimize(network.eval(), **_INFERENCE)
            return torch.jit.freeze(torch.jit.trace(packed, example))


def load(wanted: bool) -> Extension | None:
    """The extension when it is wanted; WorkFailed when it cannot be used here."""
    if not wanted:
        return None
    todo = "set train.environment=torch"
    if "avx2" not in cpu.cpu_flags():
        raise WorkFailed("Intel Extension for PyTorch needs a CPU with AVX2", todo=todo)
    if importlib.util.find_spec(PACKAGE) is None:
        raise WorkFailed(
            "this environment has no Intel Extension for PyTorch",
            todo=f"aiok env install ipex and use its Python, or {todo}",
        )
    try:
        return Extension(import_module(PACKAGE))
    except (ImportError, OSError, SystemExit) as error:
        why = (str(error) or "no message").splitlines()[0]
        raise WorkFailed(
            "Intel Extension for PyTorch cannot be loaded", why=why,
            todo=f"aiok env remove ipex, aiok env install ipex, or {todo}",
        ) from error  # fmt: skip
