"""Ranks of one job: who am I, and the few collectives that data-parallel training needs.

The rank and their number come from the launcher (PMI_RANK/PMI_SIZE of hydra, or RANK/WORLD_SIZE);
without them the process is the only rank and every collective is a no-op. Collectives run over
gloo, joined at the job's `rendezvous` (file:// or tcp://, new for each start of the job).
A rank that lost another one raises `ContactLost`: nothing can go on without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as gloo

from models.dist_memory import PeerLost, SharedMemory
from models.worker import ContactLost, InputProblem

_ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR
_PATIENCE = timedelta(minutes=10)
JOB_VARIABLE = "AIOK_JOB"  # the tag that the agent gives to all ranks of one start of a job
_JOB = "job"  # the key of the store under which its rank 0 puts that


def rank_and_size() -> tuple[int, int]:
    """This process's rank and the number of ranks, from the launcher's environment."""
    for rank, size in (("PMI_RANK", "PMI_SIZE"), ("RANK", "WORLD_SIZE")):
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


class Ranks:
    """The ranks of this job. Every rank must make the same calls in the same order.

    `waited_s` is what this rank has spent in collectives, waiting for others included, and
    `heard_bytes` what it got from them there.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.waited_s, self.heard_bytes = 0.0, 0.0
        self._shared: SharedMemory | None = None
        self._one_host: bool | None = None  # not yet known

    def sum(self, tensor: torch.Tensor) -> None:
        """Add the tensor over all ranks, in place."""
        if self.size > 1:
            ring = 2 * (self.size - 1) / self.size
            with self._talking(ring * tensor.numel() * tensor.element_size()):
                gloo.all_reduce(tensor)

    def gather(self, tensor: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """The tensors of all ranks, joined along the first axis in rank order, on every rank.

        tensor [counts[rank], ...]; `counts` (rows of every rank) must be known to all.
        """
        if self.size == 1:
            return tensor
        most = max(counts)
        padded = tensor.new_empty((most, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        with self._talking((self.size - 1) * padded.numel() * padded.element_size()):
            gloo.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def gather_equal(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors [m] of all ranks in rank order, on every rank; m is the same for all.

        float32. Ranks of one host read each other's memory; otherwise the tensors travel. The
        result may change with the next but one call.
        """
        self._prepare(len(tensor))
        with self._talking((self.size - 1) * len(tensor) * tensor.element_size()):
            if self._shared is not None:
                return self._shared.exchange(tensor, _PATIENCE.total_seconds())
            everyone = tensor.new_empty((self.size, len(tensor)))
            gloo.all_gather(list(everyone), tensor)
            return list(everyone)

    def swap(self, rows: torch.Tensor, counts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Give each rank its part of this rank's rows; the parts that it got, in rank order.

        rows [sum(counts[rank]), w] float32, those for rank 0 first; counts[a][b] = rows from a to
        b, known to all. Part a [counts[a][rank], w] came from rank a. Like with `gather_equal` it
        may change with the next but one call.
        """
        if self.size == 1:
            return [rows]
        width = rows.shape[1]
        given, taken = list(counts[self.rank]), [row[self.rank] for row in counts]
        most = max(sum(row) for row in counts) * width
        if not most:
            return [rows.new_empty((0, width)) for _ in counts]
        self._prepare(most)
        if self._shared is None:
            parts = rows.new_empty((sum(taken), width))
            heard = (sum(taken) - taken[self.rank]) * width * rows.element_size()
            with self._talking(heard):
                gloo.all_to_all_single(parts, rows.contiguous(), taken, given)
            return list(parts.split(taken))
        message = torch.empty(most)
        message[: rows.numel()] = rows.flatten()
        starts = [sum(row[: self.rank]) * width for row in counts]
        everyone = zip(self.gather_equal(message), starts, taken, strict=True)
        return [mail[at : at + count * width].view(count, width) for mail, at, count in everyone]

    def _prepare(self, words: int) -> None:
        """Have shared memory for messages of so many words, where there can be any."""
        if self._one_host is not False and (self._shared is None or words > self._shared.words):
            self._share_memory(words)

    def _share_memory(self, words: int) -> None:
        """Have room for messages of so many words, or find out that there is no shared memory."""
        words += words // 4
        self._shared = None
        with contextlib.suppress(OSError):
            if self.rank == 0:
                self._shared = SharedMemory.create(self.size, words)
        address = self.share(self._shared.address if self._shared else None)
        with contextlib.suppress(OSError):
            if self.rank and address is not None:
                self._shared = SharedMemory.attach(self.rank, self.size, words, address)
        self._one_host = self._all(self._shared is not None) and self._all(self._met())
        if not self._one_host:
            self._shared = None

    def _met(self) -> bool:
        with contextlib.suppress(OSError):
            if self._shared is not None:
                self._shared.meet()
                return True
        return False

    def _all(self, fact: bool) -> bool:
        """Whether a fact holds on every rank."""
        count = torch.tensor([float(fact)])
        self.sum(count)
        return int(count) == self.size

    def gather_rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """Like `gather`, when no rank knows how many rows the others have."""
        if self.size == 1:
            return tensor
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(tensor)
        self.sum(counts)
        return self.gather(tensor, counts.tolist())

    def collect(self, value: Any) -> list[Any]:
        """The JSON values of all ranks in rank order, on every rank."""
        if self.size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(text)
        self.sum(counts)
        texts = self.gather(text, counts.tolist()).split(counts.tolist())
        return [json.loads(bytes(one.tolist())) for one in texts]

    def share(self, value: Any) -> Any:
        """Rank 0's JSON value, on every rank."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.rank == 0 else b""
        length = torch.tensor([len(text)], dtype=torch.int64)
        with self._talking(len(text)):
            gloo.broadcast(length, src=0)
            data = torch.zeros(int(length), dtype=torch.uint8)
            if self.rank == 0:
                data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
            gloo.broadcast(data, src=0)
        return json.loads(bytes(data.tolist()))

    @contextlib.contextmanager
    def _talking(self, heard: float) -> Iterator[None]:
        """Count a collective in which this rank hears so many bytes."""
        begun = time.monotonic()
        with _lost_ranks_explained():
            yield
        self.waited_s += time.monotonic() - begun
        self.heard_bytes += heard

    def leave(self) -> None:
        """End the communication; harmless when it never began."""
        if self.size > 1 and gloo.is_initialized():
            gloo.destroy_process_group()


@contextlib.contextmanager
def joined(expected: int, rendezvous: str | None) -> Iterator[Ranks]:
    """Join the other ranks, and leave them at the end.

    Raises InputProblem when the launcher started another number of ranks than `expected`.
    """
    rank, size = rank_and_size()
    if size != expected:
        raise InputProblem(
            f"the job was started with {size} ranks, its spec says {expected}",
            todo=f"start it with mpirun -n {expected}, or change ranks in the spec",
        )
    ranks = Ranks(rank, size)
    if size > 1:
        _join(ranks, rendezvous or "")
    try:
        yield ranks
    finally:
        ranks.leave()


def _join(ranks: Ranks, rendezvous: str) -> None:
    parts = urlsplit(rendezvous)
    if parts.scheme not in ("file", "tcp"):
        raise InputProblem(
            f"rendezvous is {rendezvous!r}", todo="give a file:// or tcp://host:port address"
        )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    interface = "lo" if parts.scheme == "file" else interface_towards(parts.hostname or "")
    if interface:
        # Without it gloo binds to what the host's own name means, often 127.0.1.1.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    where: dict[str, Any] = {"init_method": rendezvous}
    if parts.scheme == "tcp":
        where = {"store": _meet(ranks, parts.hostname or "", parts.port or 0)}
    with _lost_ranks_explained():
        gloo.init_process_group(
            "gloo", **where, rank=ranks.rank, world_size=ranks.size, timeout=_PATIENCE
        )


def _meet(ranks: Ranks, host: str, port: int) -> gloo.TCPStore:
    """The store of this job's rank 0; ContactLost when that of another job has the port."""
    first, job = ranks.rank == 0, os.environ.get(JOB_VARIABLE, "")
    with _lost_ranks_explained():
        store = gloo.TCPStore(host, port, None, first, _PATIENCE, wait_for_workers=False)
        if first:
            store.set(_JOB, job)
        found = store.get(_JOB).decode()
    if found != job:
        raise ContactLost(
            f"port {port} of {host}, where the ranks of this job meet, was taken by another job",
            why=f"that one is {found!r}, this one {job!r}",
            todo="start the job again: it then takes another port",
        )
    return store


def interface_towards(host: str) -> str | None:
    """The name of the network interface that leads to a host; None when it cannot be told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # UDP: nothing is sent
            address = probe.getsockname()[0]
        except OSError:
            return None
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an IPv4 address
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe.fileno(), _ADDRESS_OF_INTERFACE, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


@contextlib.contextmanager
def _lost_ranks_explained() -> Iterator[None]:
    """Gloo's errors are RuntimeErrors with a C++ trace; say what they mean here."""
    try:
        yield
    except (RuntimeError, PeerLost) as error:
        raise ContactLost(
            "the ranks of this job lost contact with each other",
            why=str(error).strip().splitlines()[0][:300],
            todo="see the log of the other ranks; the job resumes from its last checkpoint",
        ) from error
