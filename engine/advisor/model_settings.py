"""What the advisor says to the model's settings: few changes, each measured to help, and reasons.

A setting that the user, the environment or `--set` gave is never touched. Where nothing was
measured to beat the profile's own value, it stays, and only says what it means for these data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.advisor.job import Job
from engine.recipe import Value
from models.api import ModelSpec

TABLE_MEMORY, TABLE_SHARE = "table_memory_gib", 0.5
# DLRM optimized, 300,000 generated rows: AUC 0.7441 at 4,096 rows with the usual rates, 0.7394 with
# twice as much; 0.7594 and 0.7576 (half) at 256. Adam and Adagrad need no scaling of theirs.
RATES_STAY = "as it is for any batch: rates scaled with the batch reached less (measured)"
TAIL = 0.3  # of the ids: where so many are seen once, smaller batches were measured to help
ONE_OF_A_KIND = 0.95  # of the values of a column that are seen once: it is a key, not a category


def advised(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> dict[str, Value]:
    """The settings that are better otherwise than the profile has them, by name."""
    found = [*_batch(job, spec, settings), *_validations(job, settings), *_tables(job, settings)]
    return {value.key: value for value in found if not is_given(job, value.key)}


def is_given(job: Job, name: str) -> bool:
    """Whether the user decided about a setting, in whatever way."""
    return f"model.settings.{name}" in job.origins


def reasons(job: Job, settings: Mapping[str, Any]) -> dict[str, str]:
    """Words to settings that stay as they are, by name."""
    found: dict[str, str] = {}
    if settings.get("precision") == "auto":
        hosts = [host.facts for host in job.cluster] or [job.facts]
        native = all(facts.has_bf16 for facts in hosts)
        found["precision"] = (
            "bf16 here: the CPU has AMX or AVX512-BF16" if native
            else "fp32 here: without AMX and AVX512-BF16 bf16 is slower"
        )  # fmt: skip
    if "batch_size" in settings and "min_steps" in settings:
        batch = batch_of(job, settings)
        if batch != int(settings["batch_size"]):
            found["batch_size"] = (
                f"becomes {batch:,}, so that {training_rows(job):,} training rows make at least "
                f"{int(settings['min_steps'])} steps"
            )
    if is_given(job, "batch_size") and not is_given(job, "learning_rate"):
        found["learning_rate"] = RATES_STAY
    if int(settings.get("min_count", 1)) > 1 and job.data.ids:
        kept, every = job.data.entries(int(settings["min_count"])), job.data.entries(1)
        found["min_count"] = f"leaves about {kept:,.0f} of {every:,.0f} ids: the rest is too rare"
    if "embedding_size" in settings and job.data.ids:
        size = 4 * int(settings["embedding_size"]) * job.data.entries(
            int(settings.get("min_count", 1))) / 2**20  # fmt: skip
        found["embedding_size"] = f"tables of about {size:,.1f} MiB"
    return found


def about_columns(job: Job) -> str:
    """Columns of the sample from which nothing can be learned, "" when there are none."""
    keys = [column.name for column in job.data.ids
            if job.data.sampled >= 1000 and not job.data.exact
            and column.distinct >= ONE_OF_A_KIND * max(1000, column.known)]  # fmt: skip
    if not keys:
        return ""
    return f"{', '.join(keys)}: nearly every row has another value, better left out"


def training_rows(job: Job) -> int:
    """Rows of the training split."""
    return int(job.data.rows * (1 - job.recipe.split.valid - job.recipe.split.test))


def batch_of(job: Job, settings: Mapping[str, Any]) -> int:
    """The batch that trains: halved until an epoch has min_steps, as models/train.py does."""
    batch, rows = int(settings["batch_size"]), training_rows(job)
    while batch > 1 and -(-rows // batch) < int(settings.get("min_steps", 1)):
        batch //= 2
    return batch


def _batch(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> list[Value]:
    """Rare ids learn at each step they are in: few rows with many rare ids want smaller batches.

    DLRM optimized, one rank, CPU-seconds to the validation AUC of 1,024 rows a batch, and AUC after
    one epoch: 300,000 generated clicks 2.98 s and 0.7541, with 512 2.54 s, with 256 2.82 s and
    0.7594; a table with heavy tails of 200,000 rows 1.18 s and 0.7218, with 512 1.14 s and 0.7299,
    with 256 1.18 s and 0.7324; one of few wide columns 0.63 s, with 512 0.46 s, with 256 0.56 s.
    """
    if job.recipe.goal.prefer == "speed" or job.recipe.model.profile not in spec.steps_for_tails:
        return []
    steps, least = spec.steps_for_tails[job.recipe.model.profile]
    if job.recipe.goal.prefer == "accuracy":
        steps, least = 2 * steps, least // 2
    rare = _rare_part(job)
    batch, rows = int(settings["batch_size"]), training_rows(job)
    while batch > least and rows / batch < steps:
        batch //= 2
    if rare < TAIL or batch == int(settings["batch_size"]):
        return []
    reason = (
        f"{100 * rare:.0f} % of the ids are seen once: {rows // batch:,} steps an epoch instead of "
        f"{rows // int(settings['batch_size']):,}, in which rare ids learn more"
    )
    return [Value("batch_size", batch, "advisor", reason)]


def _rare_part(job: Job) -> float:
    """Which part of the ids are seen once."""
    every = job.data.entries(1)
    return 1 - job.data.entries(2) / every if every else 0.0


def _validations(job: Job, settings: Mapping[str, Any]) -> list[Value]:
    """For speed alone one validation an epoch is enough, where none could end the training."""
    goal = job.recipe.goal
    often = int(settings.get("evals_per_epoch", 1))
    if goal.prefer != "speed" or goal.target is not None or often == 1:
        return []
    if int(settings.get("epochs", 1)) > 1:
        return []
    rows = int(job.data.rows * job.recipe.split.valid)
    reason = f"goal.prefer is speed: {often - 1} validations of {rows:,} rows less"
    return [Value("evals_per_epoch", 1, "advisor", reason)]


def _tables(job: Job, settings: Mapping[str, Any]) -> list[Value]:
    """Over several hosts tables that do not fit beside each other are spread: half of a host's
    memory is theirs, the rest for rows, gradients and the system."""
    if not job.cluster or not settings.get("fused_tables"):
        return []
    room = {h.name: h.facts.memory_gib * TABLE_SHARE / h.capacity for h in job.cluster}
    least = min(room, key=lambda name: room[name])
    reason = f"half of the memory of {least}, by its ranks: larger tables are spread over ranks"
    return [Value(TABLE_MEMORY, round(room[least], 2), "advisor", reason)]
