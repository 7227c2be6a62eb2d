"""What a row of DLRM costs at least: operations, and bytes between CPU and memory.

It is what the mathematics asks for, not what one program spends on it, so that programs can be
compared: a product of two vectors counts once (the batched product makes each twice), a multiply
and an add count as two operations, activation functions and biases not at all. Of the bytes only
those count that no cache can save: the row itself and its embedding rows, each id as if the batch
had it once. Dense weights and activations are taken to stay in the caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from models.dlrm.network import Dlrm
from models.messages import Workload

FLOAT_BYTES, ID_BYTES, LABEL_BYTES = 4, 4, 1


def training(network: Dlrm, settings: Mapping[str, Any], precision: str) -> Workload:
    """One row of a training step.

    Backward a weight costs two products (by itself, by its input), but for the first layer's
    input, which is data; the dots cost two products as well. Embedding rows are read forward, and
    read and written with their optimizer state by the update.
    """
    flops = 3 * _forward_flops(network) - 2 * network.bottom[0].weight.numel()
    adagrad = settings["table_optimizer"] == "rowwise_adagrad"
    state = (1 + network.first_order) * adagrad  # accumulators of an embedding row
    rows = network.table_count * (3 * _row_width(network) + 2 * state) * FLOAT_BYTES
    return Workload(
        flops_per_row=float(flops), bytes_per_row=float(_input_bytes(network) + LABEL_BYTES + rows),
        precision=precision,
    )  # fmt: skip


def inference(network: Dlrm, precision: str) -> Workload:
    """One row of scoring: forward operations, each embedding row read, one logit written."""
    rows = network.table_count * _row_width(network) * FLOAT_BYTES
    return Workload(
        flops_per_row=float(_forward_flops(network)),
        bytes_per_row=float(_input_bytes(network) + rows + FLOAT_BYTES), precision=precision,
    )  # fmt: skip


def _forward_flops(network: Dlrm) -> int:
    """Two operations a weight, and two a number of each pair's dot product."""
    weights = sum(layer.weight.numel() for layer in [*network.bottom, *network.top]
                  if isinstance(layer, nn.Linear))  # fmt: skip
    return 2 * weights + 2 * len(network.pairs) * network.embedding_size


def _row_width(network: Dlrm) -> int:
    return network.embedding_size + network.first_order


def _input_bytes(network: Dlrm) -> int:
    numeric: int = network.bottom[0].in_features
    return numeric * FLOAT_BYTES + network.table_count * ID_BYTES
