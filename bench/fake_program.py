"""Stands in for a user's own program where the engine is tried over hosts: it sleeps and counts.

It streams its metric, saves its step after each and goes on from it, and ends with a result.
Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STEPS = 10
NAME = "counting"
FILE: dict[str, Any] = {
    "name": NAME,
    "command": ["python3", Path(__file__).name],
    "parameters": [
        {"name": "rate", "type": "double", "bounds": {"min": 1e-3, "max": 0.1},
         "transformation": "log"},
        {"name": "depth", "type": "int", "bounds": {"min": 1, "max": 12}},
    ],
    "metrics": [{"name": "auc", "objective": "maximize"}],
    "result": {"format": "json", "file": "model.json"},
    "checkpoints": True,
}  # fmt: skip


def auc(settings: Mapping[str, Any]) -> float:
    """What a trial comes to."""
    return round(0.9 - abs(float(settings["rate"]) - 0.03) - int(settings["depth"]) / 1000, 9)


def main() -> None:
    """Count to STEPS, from the last checkpoint on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float)
    parser.add_argument("--depth", type=int)
    best = auc(vars(parser.parse_args()))
    saved = Path(os.environ["AIOK_CHECKPOINTS"], "step")
    began = int(saved.read_text()) if saved.exists() else 0
    for step in range(began + 1, STEPS + 1):
        time.sleep(float(os.environ["PAUSE_S"]))
        with open(os.environ["AIOK_METRICS"], "a") as stream:
            stream.write(json.dumps({"step": step, "metrics": {"auc": best * step / STEPS}}) + "\n")
        scratch = saved.with_name(".step")
        scratch.write_text(str(step))
        scratch.replace(saved)
    Path(os.environ["AIOK_TRIAL_DIR"], "model.json").write_text(json.dumps({"auc": best}))


if __name__ == "__main__":
    main()
