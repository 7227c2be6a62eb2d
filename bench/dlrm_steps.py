"""Time training steps of stock DLRM, ours or the public program's: `python dlrm_steps.py SPEC`.

The worker of bench/dlrm_public.py, which explains SPEC, a JSON file. Both train the same network
on the same rows with plain SGD, each with its own loader, and are timed by the same lines.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Imported at the public program's top and not used by what is called here: progress bars, charts,
# final metrics. Names only, so that no library is needed that its training step does without.
UNUSED = ("tqdm", "torch.utils.tensorboard", "sklearn", "sklearn.metrics")


def public_modules(checkout: Path) -> tuple[Any, Any]:
    """The public program and its loader."""
    sys.path.insert(0, str(checkout))
    for name in UNUSED:
        module = types.ModuleType(name)
        module.__dict__.update(tqdm=None, SummaryWriter=None)
        sys.modules[name] = module
    found = [importlib.import_module(name) for name in ("dlrm_s_pytorch", "data_loader_terabyte")]
    for name in UNUSED:  # torch's optimizers look at what is imported
        del sys.modules[name]
    return found[0], found[1]


def public_steps(spec: dict[str, Any]) -> Iterator[float]:
    """The loss of each step of the public program, by its loader and network and torch's SGD.

    The calls stand in the order of its training loop.
    """
    program, loader = public_modules(Path(spec["checkout"]))
    import numpy as np
    import torch

    network = program.DLRM_Net(
        m_spa=16, ln_emb=np.array(spec["table_sizes"]), ln_bot=np.array([13, 512, 256, 64, 16]),
        ln_top=np.array([367, 512, 256, 1]), arch_interaction_op="dot", sigmoid_top=2,
        loss_function="bce",
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=float(spec["rate"]))
    rows = loader.CriteoBinDataset(spec["rows"], spec["counts"], batch_size=spec["batch_size"])
    batches = torch.utils.data.DataLoader(rows, batch_size=None, shuffle=False, num_workers=0)
    for numeric, offsets, ids, label in batches:
        error = network.loss_fn(network(numeric, offsets, ids), label)
        loss = float(error.detach())
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        yield loss


def our_steps(spec: dict[str, Any]) -> Iterator[float]:
    """The same of our stock profile: its loader and its training step."""
    from models.dist import Ranks
    from models.dlrm.task import DlrmTask
    from models.loop import SIGNALS
    from models.loop_data import ShuffledRows

    task = DlrmTask(spec["settings"], spec["data"], 7, Ranks(0, 1), SIGNALS)
    for batch in ShuffledRows(task.rows("train"), int(spec["batch_size"]), 7).batches(0):
        yield task.step(batch, 1.0, [0.0] * SIGNALS)[0] / batch.global_rows


def timed(steps: Iterator[float], warm: int, count: int) -> dict[str, float]:
    """Seconds and CPU-seconds of `count` steps after `warm` ones, and the mean loss of those."""
    for _ in range(warm):
        next(steps)
    wall, cpu = time.monotonic(), time.process_time()
    total = sum(next(steps) for _ in range(count))
    return {"seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu,
            "loss": total / count}  # fmt: skip


def main(spec: dict[str, Any]) -> dict[str, float]:
    """Time what the spec asks for."""
    from models import cpu

    cpu.prepare(int(spec["threads"]), keep_memory=False)
    steps = public_steps(spec) if spec["checkout"] else our_steps(spec)
    return timed(steps, int(spec["warm"]), int(spec["steps"]))


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(asked["result"]).write_text(json.dumps(main(asked)), encoding="utf-8")
