"""What training DLRM costs before anything was measured. The engine reads it: stdlib only.

The prices are those of one core of a server of 2023; what a host really takes is learned there
(engine/learned.py), so only how the parts grow with the settings has to be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from models.api import RowCost

FLOPS_PER_US = 30_000.0  # of one core, in the small products of these networks
RECORDED = 1.4  # autograd's recording, over the written-out gradients
LOOKUP_US, NUMBER_US = 0.15, 0.004  # of an id and of a number of its row: read, gradient, update
SEPARATE = 2.0  # tables of their own, over one storage
STEP_US, TABLE_STEP_US = 700.0, 150.0  # of a step; of each table where they are separate


def row_cost(settings: Mapping[str, Any], numeric: int, categorical: int) -> RowCost:
    """Training one row with these (parsed) settings on so many numeric and id columns."""
    d, vectors = int(settings["embedding_size"]), categorical + 1
    pairs = vectors * (vectors - 1) // 2
    bottom = [numeric, *settings["bottom_widths"], d]
    top = [d + pairs, *settings["top_widths"], 1]
    weights = sum(a * b for layers in (bottom, top) for a, b in pairwise(layers))
    flops = 6 * (weights + pairs * d) - 2 * bottom[0] * bottom[1]  # forward, and twice backward
    fused = bool(settings["fused_tables"])
    width = d + (float(settings["first_order_rate"]) > 0)
    return RowCost(
        dense_us=flops / FLOPS_PER_US * (1.0 if settings["fused_head"] else RECORDED),
        tables_us=categorical * (LOOKUP_US + NUMBER_US * width) * (1.0 if fused else SEPARATE),
        step_us=STEP_US + (0.0 if fused else TABLE_STEP_US * categorical),
        id_bytes=4 * (2 * width + 2),  # its row and the best copy of it, two accumulators
    )
