"""What the verbs about a user's own programs say."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any

from aiok_tui.output import print_json, table, words
from engine.programs.check import CheckOutcome, CheckTrial
from engine.programs.schema import Known
from engine.work import clean


def print_registered(known: Known) -> None:
    """What it is now, and what can be done with it."""
    program = known.program
    names = ", ".join(part.name for part in program.parameters)
    count = len(program.parameters)
    print(f"{program.name}: {count} parameter{'s' * (count > 1)} ({names}), "
          f"metrics {', '.join(metric.name for metric in program.metrics)}")  # fmt: skip
    words(f"aiok check {program.name} tries it; recipes say model: {{name: {program.name}}}")


def print_command(trial: CheckTrial, as_json: bool) -> None:
    """The exact command, before it runs."""
    if as_json:
        spec = trial.spec
        print_json({"argv": spec["argv"], "cwd": spec["cwd"], "env": spec["env"],
                    "params": spec["params"]})  # fmt: skip
        return
    print(f"in {clean(trial.spec['cwd'])}:")
    print(f"$ {clean(shlex.join(trial.spec['argv']))}", flush=True)


def print_outcome(outcome: CheckOutcome, as_json: bool) -> int:
    """Each metric, or why there is none; 1 for a failed trial."""
    if as_json:
        print_json(asdict(outcome))
        return 1 if outcome.failure else 0
    rows: list[list[Any]] = [[name, f"{value:g}"] for name, value in outcome.metrics.items()]
    rows += [["streamed", f"{count} values of {clean(name)}"]
             for name, count in outcome.streamed.items()]  # fmt: skip
    rows.append(["seconds", f"{outcome.seconds:.1f}"])
    print(table(rows))
    for note in outcome.notes:
        words(note)
    if not outcome.failure:
        return 0
    print(f"failed ({outcome.failure}): {outcome.what}")
    for label, text in (("why", outcome.why), ("do", outcome.todo)):
        if text:
            print(f"  {label}: {text}")
    return 1
