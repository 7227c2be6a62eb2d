"""Scoring streams of batches, eagerly or by OpenVINO, on a fixed number of processors."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import nn

from models.ipex import Extension

Array = NDArray[Any]
Score = Callable[[Array, Array], Array]
"""(numeric float32 [n, N], ids int32 [n, T]) -> logits float32 [n]."""

PRECISION = "f32"
_TYPES = {"f32": (ov.Type.f32, torch.float32), "i32": (ov.Type.i32, torch.int32)}


@dataclass(frozen=True)
class Form:
    """A graph to export. `file` is its name in the bundle, `inputs` its (shape, type) pairs with
    -1 for the batch; `feed` turns numeric [n, numeric] and ids [n, tables] into the inputs."""

    name: str
    file: str
    module: nn.Module
    inputs: tuple[tuple[list[int], str], ...]
    feed: Callable[[Array, Array], tuple[Array, ...]]
    numeric: int
    tables: int


def convert(form: Form, folder: Path) -> Path:
    """Write the graph as OpenVINO IR, NAME.xml and NAME.bin with fp32 weights, any batch size."""
    with warnings.catch_warnings():
        # OpenVINO traces by torch.jit, which torch now advises against; that is theirs to change
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        model = ov.convert_model(
            form.module,
            example_input=_example(form),
            input=[(shape, _TYPES[kind][0]) for shape, kind in form.inputs],
        )
    path = folder / f"{form.file}.xml"
    ov.save_model(model, path, compress_to_fp16=False)
    return path


def _example(form: Form) -> tuple[torch.Tensor, ...]:
    """Two rows of zeros for a graph's inputs."""
    return tuple(
        torch.zeros([2 if size < 0 else size for size in shape], dtype=_TYPES[kind][1])
        for shape, kind in form.inputs
    )


def traced(form: Form, extension: Extension) -> Score:
    """The graph by Intel Extension for PyTorch, as a function for any number of callers."""
    graph = extension.traced(form.module, _example(form))

    def run(numeric: Array, ids: Array) -> Array:
        with torch.inference_mode():
            logits: Array = graph(*map(torch.from_numpy, form.feed(numeric, ids))).numpy()
        return logits

    return run


def compiled(form: Form, path: Path, threads: int) -> Score:
    """The exported graph as a function for `threads` callers at a time.

    One stream of one thread for each: batches are independent, so nothing has to wait for the
    slowest part of a layer. The inference precision is pinned to f32, or machines with bf16 units
    would silently compute in bf16.
    """
    graph = ov.Core().compile_model(
        path,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": PRECISION,
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        },
    )
    requests: SimpleQueue[Any] = SimpleQueue()
    one_row = form.feed(
        np.zeros((1, form.numeric), np.float32), np.zeros((1, form.tables), np.int32)
    )
    for _ in range(threads):
        request = graph.create_infer_request()
        # OpenVINO's Python layer sets itself up at the first call, and two threads that make their
        # first call at the same time can wait for each other for ever (2026.4: lock against GIL).
        request.infer(list(one_row), share_inputs=True)
        requests.put(request)

    def run(numeric: Array, ids: Array) -> Array:
        request = requests.get()
        try:
            logits: Array = request.infer(list(form.feed(numeric, ids)), share_inputs=True)[0]
            return np.array(logits, dtype=np.float32)
        finally:
            requests.put(request)

    return run


def stream(score: Score, batches: Iterable[tuple[Array, Array]], threads: int) -> Iterator[Array]:
    """Logits of each batch in order; at most 3 batches a thread are in memory at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the batches are what is shared out, not the parts of one
    waiting: deque[Future[Array]] = deque()
    try:
        with ThreadPoolExecutor(threads) as pool:
            for numeric, ids in batches:
                waiting.append(pool.submit(score, numeric, ids))
                if len(waiting) >= 3 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(before)


def one_by_one(
    score: Score, batches: Iterable[tuple[Array, Array]], threads: int
) -> Iterator[Array]:
    """Logits of each batch in order, all threads at work on one batch: torch's usual way."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for numeric, ids in batches:
            yield score(numeric, ids)
    finally:
        torch.set_num_threads(before)
