"""What skew and label balance mean for what is chosen: words, each with the figure it rests on."""

from __future__ import annotations

import math

from engine.advisor.job import Job

SAMPLE_LEAST = 1000  # sampled rows from which on a column is judged
ONE_OF_A_KIND = 0.95  # of the values of a column that are seen once: it is a key, not a category
ALL_THE_SAME = 0.999  # of the values of a column that are one id: nothing to tell rows by
TYPICAL_AUC = 0.75  # the noise of an AUC hardly depends on where it lies between 0.65 and 0.8


def about_columns(job: Job) -> str:
    """Columns of the sample from which nothing can be learned, "" when there are none."""
    data = job.data
    if data.sampled < SAMPLE_LEAST or data.exact:
        return ""
    keys = [column.name for column in data.ids
            if column.distinct >= ONE_OF_A_KIND * max(SAMPLE_LEAST, column.known)]  # fmt: skip
    same = [column.name for column in data.ids
            if column.known >= SAMPLE_LEAST and column.top >= ALL_THE_SAME]  # fmt: skip
    said = []
    if keys:
        said.append(f"{', '.join(keys)}: nearly every row has another value, better left out")
    if same:
        said.append(f"{', '.join(same)}: nearly every row has the same value, better left out")
    return "; ".join(said)


def about_skew(job: Job) -> str:
    """How uneven the ids are, "" where no sample tells: the tail is what decides about batches, of
    the head no effect on them was measured."""
    sampled = [column for column in job.data.ids if column.top > 0]
    if not sampled:
        return ""
    most = max(sampled, key=lambda column: column.top)
    return (
        f"the most frequent id of {most.name} is in {100 * most.top:.0f} % of its rows, of which "
        "no effect on the batch was measured"
    )


def about_labels(job: Job, metric: str) -> str:
    """What the balance of the labels means for the metric that decides."""
    rate = job.data.label_rate
    if rate is None:
        return "no change: how many labels are positive is not known before the ETL"
    if rate in (0.0, 1.0):
        return f"all {job.data.sampled:,} sampled labels are the same: nothing to learn or to score"
    balance = f"{100 * rate:.3g} % of the labels are positive"
    if metric == "logloss":
        guess = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
        return f"no change: {balance}: who always says so scores {guess:.4f}"
    rows = job.data.rows * job.recipe.split.valid
    if metric != "auc" or rows * min(rate, 1 - rate) < 2:
        return f"no change: {balance}"
    noise = auc_noise(rows * rate, rows * (1 - rate))
    return (
        f"no change: {balance}, which AUC does not depend on; {rows:,.0f} validation rows tell it "
        f"to {noise:.2g} (standard error)"
    )


def auc_noise(positives: float, negatives: float) -> float:
    """The standard error of an AUC of TYPICAL_AUC from so many rows of each label.

    Hanley and McNeil 1982, The Meaning and Use of the Area under a ROC Curve, Radiology 143.
    """
    auc = TYPICAL_AUC
    one, two = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (one - auc**2) + (negatives - 1) * (two - auc**2)
    return math.sqrt(spread / (positives * negatives))
