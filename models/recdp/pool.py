"""Runs a function over pieces of work in a few processes, results in the order of the pieces."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from models.worker import StopFlag

WAITING = 2  # pieces handed out ahead, by core: bounds the memory of results


def in_processes(
    function: Callable[..., Any], pieces: Sequence[tuple[Any, ...]], cores: int, stop: StopFlag
) -> Iterator[Any]:
    """function(*piece) for each piece. One core works in this process. On a stop request the
    pieces not yet begun are given up and Stopped is raised."""
    if cores <= 1 or len(pieces) <= 1:
        for piece in pieces:
            stop.check()
            yield function(*piece)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(cores, len(pieces)), context) as pool:
        pending: deque[Future[Any]] = deque()
        left = iter(pieces)
        for piece in left:
            pending.append(pool.submit(function, *piece))
            if len(pending) >= WAITING * cores:
                break
        while pending:
            if stop.requested:
                pool.shutdown(cancel_futures=True)
            stop.check()
            yield pending.popleft().result()
            for piece in left:
                pending.append(pool.submit(function, *piece))
                break
