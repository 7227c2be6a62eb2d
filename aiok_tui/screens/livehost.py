"""What a host does at present, as cells and lines; one that is lost shows its last and its age."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiok_tui.output import duration
from aiok_tui.widgets.meter import number, pair
from aiok_tui.widgets.paint import Cell, wrap
from engine.monitor import Standing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from engine.monitor import Reading

HOT = 0.9  # part of the memory


def cells(live: Reading | None) -> list[Cell]:
    """CPU in % of all cores, memory in % of its size, network in MiB/s both ways."""
    if live is None or live.sample is None:
        return [("", "dim")] * 3
    share = _memory(live.sample)
    tone = "plain" if live.standing is Standing.LIVE else "dim"
    hot = tone == "plain" and share >= HOT
    return [(f"{number(live.sample, 'cpu'):.0f} %", tone),
            (f"{100 * share:.0f} %", "bad" if hot else tone),
            (f"{_network(live.sample):.1f}", tone)]  # fmt: skip


def heard(live: Reading | None) -> Cell | None:
    """The age of the last sample; None where there is none."""
    if live is None or live.age_s is None:
        return None
    return f"{duration(live.age_s)} ago", "dim" if live.standing is Standing.LIVE else "bad"


def text(live: Reading) -> Cell:
    """The same in words, for a narrow list."""
    sample = live.sample or {}
    said = (f"cpu {number(sample, 'cpu'):.0f} %  mem {100 * _memory(sample):.0f} %  "
            f"net {_network(sample):.1f}")  # fmt: skip
    return said, "plain" if live.standing is Standing.LIVE else "dim"


def lines(live: Reading, width: int) -> list[list[Cell]]:
    """All figures of a host, and why it is not heard."""
    found: list[list[Cell]] = []
    if live.problem:
        found += wrap(f"{live.standing.value}: {live.problem}"[:400], width, "bad", "  ")
    if live.sample is not None and live.age_s is not None:
        s = live.sample
        used, total = number(s, "memory_used_gib"), number(s, "memory_total_gib")
        said = (
            f"{live.standing.value}, {duration(live.age_s)} ago: cpu {number(s, 'cpu'):.0f} %, "
            f"load {number(s, 'load1'):.1f}, memory {used:.1f} of {total:.1f} GiB, "
            f"disk {pair(s, 'disk_read_mib_s', 'disk_write_mib_s', 'r', 'w')}, "
            f"net {pair(s, 'net_rx_mib_s', 'net_tx_mib_s', 'rx', 'tx')}"
        )
        found += wrap(said, width, "plain" if live.standing is Standing.LIVE else "dim", "  ")
    return found


def _memory(sample: Mapping[str, Any]) -> float:
    total = number(sample, "memory_total_gib")
    return number(sample, "memory_used_gib") / total if total else 0.0


def _network(sample: Mapping[str, Any]) -> float:
    return number(sample, "net_rx_mib_s") + number(sample, "net_tx_mib_s")
