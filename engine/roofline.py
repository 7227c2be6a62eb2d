"""How near training and inference come to what the machine can do, and what that says.

The worker says what a row costs at least (flops_per_row, bytes_per_row); times rows/s that is what
was reached; the `roofline` step measured the peaks. Of the two limits the nearer one is what the
work would run into first; far from both, its time goes to overhead and latency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.state import RunState, StepState, StepStatus

SPEED = ("rows_per_second", "train")  # the live curve
WORDS = {"train": "training", "optimize": "inference"}
NEAR, FAR = 0.5, 0.2  # parts of a peak: above the one bound by it, below the other by neither
UNDISTURBED = 0.8  # part of the cores' time the measuring must have got


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """One step beside the peaks. Speeds in rows/s, GFLOP/s and GB/s."""

    step: str
    what: str
    rows_per_second: float
    gflops: float
    gflops_peak: float
    gb_per_s: float
    gb_per_s_peak: float
    precision: str  # of the matmul peak
    cores: int
    doubt: str  # why the peaks may be too low, "" = they are sound

    @property
    def matmul(self) -> float:
        """Reached part of the matmul peak, 0..1."""
        return self.gflops / self.gflops_peak

    @property
    def memory(self) -> float:
        """Reached part of the memory peak, 0..1."""
        return self.gb_per_s / self.gb_per_s_peak

    @property
    def limit(self) -> str:
        """The nearer limit: matmul or memory."""
        return "matmul" if self.matmul >= self.memory else "memory"

    @property
    def line(self) -> str:
        """What was reached, in one line."""
        return (
            f"{self.what} {_short(self.rows_per_second)} rows/s, "
            f"{_percent(self.matmul)} of matmul peak ({self.precision}, {self.cores} "
            f"core{'s' if self.cores > 1 else ''}), {_percent(self.memory)} of memory peak"
        )

    @property
    def verdict(self) -> str:
        """Why it is not faster, in words."""
        part = max(self.matmul, self.memory)
        if part < FAR:  # true even beside peaks that are too low
            return (f"far from both limits ({self.limit} is nearer): the time goes to overhead "
                    "and latency")  # fmt: skip
        if self.doubt:
            return f"not judged: {self.doubt}"
        if part >= NEAR:
            return f"bound by {self.limit}: only less work a row makes it much faster"
        return f"{self.limit} is the nearer limit; the rest of the time is overhead and latency"

    @property
    def text(self) -> str:
        """What was reached, and why it was not more."""
        return f"{self.line}: {self.verdict}"

    def to_json(self) -> dict[str, Any]:
        """All figures, for the report's twin and `aiok show --json`."""
        return {
            "step": self.step, "what": self.what, "rows_per_second": self.rows_per_second,
            "gflops": self.gflops, "gflops_peak": self.gflops_peak,
            "matmul_percent": 100 * self.matmul, "gb_per_s": self.gb_per_s,
            "gb_per_s_peak": self.gb_per_s_peak, "memory_percent": 100 * self.memory,
            "precision": self.precision, "cores": self.cores, "limit": self.limit,
            "line": self.line, "verdict": self.verdict,
        }  # fmt: skip


def rooflines(state: RunState) -> list[Roofline]:
    """Training and inference beside the peaks, as far as a run knows them."""
    found = (roofline(state, step) for step in state.steps.values())
    return [one for one in found if one is not None]


def roofline(state: RunState, step: StepState) -> Roofline | None:
    """A step beside the peaks, live or finished; None when one of the figures is not known."""
    if step.kind not in WORDS:
        return None
    result, speed = step.result, step.result.get("rows_per_second")
    if step.status is StepStatus.RUNNING:
        points = state.curves.get(SPEED)
        result, speed = step.workload, points[-1].value if points else None
    return beside(step.id, WORDS[step.kind], speed, result, state.result("roofline"))


def beside(
    step: str, what: str, speed: Any, work: Mapping[str, Any], peaks: Mapping[str, Any]
) -> Roofline | None:
    """Rows/s of `work` (flops_per_row, bytes_per_row, precision) beside a roofline step's result.

    A precision the CPU has no instructions for is computed in fp32, so that peak counts.
    """
    matmul = peaks.get("matmul_gflops")
    matmul = matmul if isinstance(matmul, dict) else {}
    precision = str(work.get("precision"))
    precision = precision if precision in matmul else "fp32"
    numbers = [
        *(speed, work.get("flops_per_row"), work.get("bytes_per_row")),
        *(matmul.get(precision), peaks.get("memory_gb_per_s"), peaks.get("threads")),
    ]
    if not all(isinstance(one, int | float) and one > 0 for one in numbers):
        return None
    rows, flops, size, gflops_peak, gb_peak, cores = map(float, numbers)
    kept = peaks.get("cores_kept")
    busy = isinstance(kept, int | float) and kept < UNDISTURBED * cores
    return Roofline(
        step=step, what=what, rows_per_second=rows, gflops=rows * flops / 1e9,
        gflops_peak=gflops_peak, gb_per_s=rows * size / 1e9, gb_per_s_peak=gb_peak,
        precision=precision, cores=int(cores),
        doubt="other programs took the CPU while the peaks were measured: they are too low"
        if busy else "",
    )  # fmt: skip


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.0095 else f"{100 * part:.1g} %"


def _short(rows: float) -> str:
    """950, 134 k, 1.2 M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if rows >= 0.9995 * size:
            return f"{rows / size:.3g} {unit}"
    return f"{rows:.0f}"
