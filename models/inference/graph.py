"""Networks as OpenVINO graphs: written once, computed in fp32 or, where the CPU has it, in bf16."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino as ov
import torch
from torch import nn

from models import ipex
from models.inference.scoring import BF16, FP32, Array, Form, Score
from models.ipex import Extension

_TYPES = {"f32": (ov.Type.f32, torch.float32), "i32": (ov.Type.i32, torch.int32)}
_OPENVINO_NAMES = {FP32: "f32", BF16: "bf16"}
_BF16_UNITS = frozenset({"amx_bf16", "avx512_bf16"})


@dataclass(frozen=True)
class Graph:
    """A network to export. `file` is its name in the bundle, `inputs` its (shape, type) pairs with
    -1 for the batch; `feed` turns numeric [n, numeric] and ids [n, tables] into the inputs."""

    file: str
    module: nn.Module
    inputs: tuple[tuple[list[int], str], ...]
    feed: Callable[[Array, Array], tuple[Array, ...]]
    numeric: int
    tables: int


def graph_forms(name: str, graph: Graph) -> tuple[Form, Form]:
    """The forms of a graph: fp32, and bf16 of the same files for CPUs that multiply it natively."""
    files = (f"{graph.file}.xml", f"{graph.file}.bin")

    def write(folder: Path, _numeric: Array, _ids: Array) -> None:
        convert(graph, folder)

    def load(precision: str, folder: Path, threads: int) -> Score:
        return compiled(graph, folder / files[0], threads, precision)

    return (
        Form(name, FP32, files, write, partial(load, FP32)),
        Form(f"{name}_bf16", BF16, files, write, partial(load, BF16), _BF16_UNITS),
    )


def extension_form(graph: Graph, extension: Extension) -> Form:
    """The graph by Intel Extension for PyTorch; the bundle's torch form is all it needs."""

    def write(_folder: Path, _numeric: Array, _ids: Array) -> None:
        """Nothing: it is traced anew where it is loaded."""

    return Form(ipex.FORM, FP32, (), write, lambda _folder, _threads: traced(graph, extension))


def traced(graph: Graph, extension: Extension) -> Score:
    """The graph traced by the extension, as a function for any number of callers."""
    network = extension.traced(graph.module, _example(graph))

    def run(numeric: Array, ids: Array) -> Array:
        with torch.inference_mode():
            logits: Array = network(*map(torch.from_numpy, graph.feed(numeric, ids))).numpy()
        return logits

    return run


def _example(graph: Graph) -> tuple[torch.Tensor, ...]:
    """Two rows of zeros for a graph's inputs."""
    return tuple(
        torch.zeros([2 if size < 0 else size for size in shape], dtype=_TYPES[kind][1])
        for shape, kind in graph.inputs
    )


def convert(graph: Graph, folder: Path) -> Path:
    """Write the graph as OpenVINO IR, FILE.xml and FILE.bin with fp32 weights, any batch size."""
    with warnings.catch_warnings():
        # OpenVINO traces by torch.jit, which torch now advises against; that is theirs to change
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        model = ov.convert_model(
            graph.module,
            example_input=_example(graph),
            input=[(shape, _TYPES[kind][0]) for shape, kind in graph.inputs],
        )
    path = folder / f"{graph.file}.xml"
    ov.save_model(model, path, compress_to_fp16=False)
    return path


def compiled(graph: Graph, path: Path, threads: int, precision: str) -> Score:
    """The exported graph as a function for `threads` callers at a time, in fp32 or bf16.

    One stream of one thread for each: batches are independent, so nothing has to wait for the
    slowest part of a layer. The precision is pinned, or machines with bf16 units would silently
    compute in bf16; where a CPU has none, OpenVINO computes a bf16 form in fp32.
    """
    network = ov.Core().compile_model(
        path,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": _OPENVINO_NAMES[precision],
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        },
    )
    requests: SimpleQueue[Any] = SimpleQueue()
    one_row = graph.feed(
        np.zeros((1, graph.numeric), np.float32), np.zeros((1, graph.tables), np.int32)
    )
    for _ in range(threads):
        request = network.create_infer_request()
        # OpenVINO's Python layer sets itself up at the first call, and two threads that make their
        # first call at the same time can wait for each other for ever (2026.4: lock against GIL).
        request.infer(list(one_row), share_inputs=True)
        requests.put(request)

    def run(numeric: Array, ids: Array) -> Array:
        request = requests.get()
        try:
            logits: Array = request.infer(list(graph.feed(numeric, ids)), share_inputs=True)[0]
            return np.array(logits, dtype=np.float32)
        finally:
            requests.put(request)

    return run
