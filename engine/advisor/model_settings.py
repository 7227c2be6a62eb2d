"""What the advisor says to the model's settings: few changes, each measured to help, and reasons.

A setting that the user, the environment or `--set` gave is never touched. Where nothing was
measured to beat the profile's own value, it stays, and says why ("no change: ...").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.advisor.data_reasons import about_skew
from engine.advisor.job import Job
from engine.advisor.tables import WIDTH, in_words, table_memory, width
from engine.recipe import Value
from models.api import ModelSpec

RATES = {"learning_rate": "dense_optimizer", "table_learning_rate": "table_optimizer"}
ADAPTIVE = ("adam", "rowwise_adagrad")
# DLRM optimized, 300,000 generated rows: AUC 0.7441 at 4,096 rows with the usual rates, 0.7394 with
# twice as much; 0.7594 and 0.7576 (half) at 256. Adam and Adagrad need no scaling of theirs.
RATES_STAY = "as it is for any batch: rates scaled with the batch reached less (measured)"
TAIL = 0.3  # of the ids: where so many are seen once, smaller batches were measured to help


def advised(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> dict[str, Value]:
    """The settings that are better otherwise than the profile has them, by name."""
    found: list[Value] = []
    size, reason = _batch(job, spec, settings)
    if size != int(settings.get("batch_size", size)):
        found.append(Value("batch_size", size, "advisor", reason))
    wide = width(job, spec, settings)
    if wide is not None and wide[0] != int(settings[WIDTH]):
        found.append(Value(WIDTH, wide[0], "advisor", wide[1]))
    spread = table_memory(job, settings)
    found += [*_validations(job, settings), *([spread] if spread else [])]
    return {value.key: value for value in found if not is_given(job, value.key)}


def is_given(job: Job, name: str) -> bool:
    """Whether the user decided about a setting, in whatever way."""
    return f"model.settings.{name}" in job.origins


def reasons(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> dict[str, str]:
    """Words to settings that stay as they are, by name."""
    found: dict[str, str] = {}
    if "precision" in settings:
        found["precision"] = _about_precision(job, str(settings["precision"]))
    if "batch_size" in settings:
        halved = _about_halving(job, settings)
        own = "" if is_given(job, "batch_size") else _batch(job, spec, settings)[1]
        found["batch_size"] = "; ".join(filter(None, (own, halved)))
    for name in RATES:
        if name in settings and not is_given(job, name):
            found[name] = _about_rate(job, spec, settings, str(settings.get(RATES[name])))
    if int(settings.get("min_count", 1)) > 1 and job.data.ids:
        kept, every = job.data.entries(int(settings["min_count"])), job.data.entries(1)
        found["min_count"] = f"leaves about {kept:,.0f} of {every:,.0f} ids: the rest is too rare"
    wide = width(job, spec, settings)
    if wide is not None:
        found[WIDTH] = in_words(job, spec, settings) if is_given(job, WIDTH) else wide[1]
    return found


def _about_rate(job: Job, spec: ModelSpec, settings: Mapping[str, Any], optimizer: str) -> str:
    """Why a rate stays with the batch it has, and what is known where that batch is another one
    than the profile's."""
    if optimizer in ADAPTIVE:
        return f"no change: {RATES_STAY}"
    profile = job.recipe.model.profile
    own, batch = int(spec.profiles[profile].get("batch_size", 0)), batch_of(job, settings)
    if own in (0, batch):
        return f"no change: {optimizer}, with the batch that {profile} has it for"
    return (
        f"no change: {profile} has it for batches of {own:,}; with {batch:,} {optimizer} usually "
        f"wants {batch / own:.3g} times as much (Goyal et al. 2017, not measured here)"
    )


def _about_precision(job: Job, precision: str) -> str:
    if is_given(job, "precision") and precision != "auto":
        return ""
    hosts = [host.facts for host in job.cluster] or [job.facts]
    native = all(facts.has_bf16 for facts in hosts)
    here = (
        "bf16 here: the CPU has AMX or AVX512-BF16" if native
        else "fp32 here: without AMX and AVX512-BF16 bf16 is slower"
    )  # fmt: skip
    if precision == "auto":
        return here
    return f"no change: the profile has {precision}; auto would take {here}"


def training_rows(job: Job) -> int:
    """Rows of the training split."""
    return int(job.data.rows * (1 - job.recipe.split.valid - job.recipe.split.test))


def batch_of(job: Job, settings: Mapping[str, Any]) -> int:
    """The batch that trains: halved until an epoch has min_steps, as models/train.py does."""
    batch, rows = int(settings["batch_size"]), training_rows(job)
    while batch > 1 and -(-rows // batch) < int(settings.get("min_steps", 1)):
        batch //= 2
    return batch


def _about_halving(job: Job, settings: Mapping[str, Any]) -> str:
    batch = batch_of(job, settings)
    if batch == int(settings["batch_size"]):
        return ""
    return (
        f"becomes {batch:,}, so that {training_rows(job):,} training rows make at least "
        f"{int(settings['min_steps'])} steps"
    )


def _batch(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> tuple[int, str]:
    """The batch, and why that. Rare ids learn at each step they are in: few rows with many rare ids
    want smaller batches.

    DLRM optimized, one rank, CPU-seconds to the validation AUC of 1,024 rows a batch, and AUC after
    one epoch: 300,000 generated clicks 2.98 s and 0.7541, with 512 2.54 s, with 256 2.82 s and
    0.7594; a table with heavy tails of 200,000 rows 1.18 s and 0.7218, with 512 1.14 s and 0.7299,
    with 256 1.18 s and 0.7324; one of few wide columns 0.63 s, with 512 0.46 s, with 256 0.56 s.
    """
    profile, prefer = job.recipe.model.profile, job.recipe.goal.prefer
    batch, rows = int(settings.get("batch_size", 0)), training_rows(job)
    if not batch:
        return 0, ""
    if profile not in spec.steps_for_tails:
        return batch, f"no change: {profile} was not measured with other batches"
    if prefer == "speed":
        return batch, "no change: goal.prefer is speed, and smaller batches take longer for a row"
    steps, least = spec.steps_for_tails[profile]
    if prefer == "accuracy":
        steps, least = 2 * steps, least // 2
    rare = _rare_part(job)
    if rare is None:
        return batch, "no change: how many ids are rare is not known before the ETL"
    chosen = batch
    while rare >= TAIL and chosen > least and rows / chosen < steps:
        chosen //= 2
    why = f"{100 * rare:.0f} % of the ids are seen once"
    if rare < TAIL:
        why = f"no change: {why}; smaller batches were measured to help from {100 * TAIL:.0f} % on"
    elif chosen < batch:
        why += (
            f": {rows // chosen:,} steps an epoch instead of {rows // batch:,}, in which rare "
            "ids learn more"
        )
    elif batch <= least:
        why = f"no change: {why}; no smaller batch than {least} was measured to help"
    else:
        why = f"no change: {why}; {rows // batch:,} steps an epoch are enough for them"
    return chosen, "; ".join(filter(None, (why, about_skew(job))))


def _rare_part(job: Job) -> float | None:
    """Which part of the ids are seen once; None where no ids are known."""
    every = job.data.entries(1)
    return 1 - job.data.entries(2) / every if every else None


def _validations(job: Job, settings: Mapping[str, Any]) -> list[Value]:
    """For speed alone one validation an epoch is enough, where none could end the training. In a
    search they are what bad trials are ended by (engine/advisor/pruning.py)."""
    goal = job.recipe.goal
    often = int(settings.get("evals_per_epoch", 1))
    if goal.prefer != "speed" or goal.target is not None or often == 1:
        return []
    if int(settings.get("epochs", 1)) > 1 or job.recipe.search is not None:
        return []
    rows = int(job.data.rows * job.recipe.split.valid)
    reason = f"goal.prefer is speed: {often - 1} validations of {rows:,} rows less"
    return [Value("evals_per_epoch", 1, "advisor", reason)]
