"""Which engine runs the ETL, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine import catalog
from engine.advisor.costs import SPARK_COST, SPARK_START_S, START_S
from engine.advisor.job import Job
from engine.advisor.layout import spark_cores
from engine.recipe import Value
from hosts.inventory import LOCAL

SHARED = (
    "all its hosts must see AIOK_HOME and the data at the same paths; its secret: "
    "spark.authenticate.secret in spark-defaults.conf of the folder SPARK_CONF_DIR"
)
SHARED_BY_SERVER = "it must see AIOK_HOME and the data at the same paths"


@dataclass(frozen=True)
class EtlPlace:
    """Where the ETL runs. `host` is this machine or the cluster, `reason` why."""

    engine: str
    host: str
    reason: str


def place_etl(job: Job) -> EtlPlace | None:
    """Where the ETL of a job with a cluster and no address runs; None where the user decided."""
    etl = job.recipe.etl
    if not job.cluster or etl.address or etl.engine == "sail":
        return None
    rows, least = job.data.rows, _rows_for_spark(job)
    if etl.engine == "auto" and (least is None or rows < least):
        pays = f"pays from {least:,} rows on" if least else "does not pay: it needs more cores"
        return EtlPlace("sail", LOCAL, f"{rows:,} rows: Spark over {job.recipe.cluster} {pays}")
    head = job.cluster[0].name
    if job.shared is None:
        reason = (
            f"{job.recipe.cluster} has no folder that all hosts see (`shared` in the inventory), "
            f"which Spark needs: the embedded engine on {head}"
        )
        return EtlPlace("sail", job.recipe.cluster, reason)
    names = ", ".join(host.name for host in job.cluster)
    reason = f"master on {head}, workers on {names}, for the length of the step"
    if etl.engine == "auto":
        reason = f"{rows:,} rows, Spark pays from {least:,} on: {reason}"
    return EtlPlace("spark", job.recipe.cluster, reason)


def _rows_for_spark(job: Job) -> int | None:
    """From how many rows on Spark over the hosts ends before the embedded engine here; None: never,
    since a row costs Spark SPARK_COST times as much."""
    cost = catalog.load(job.recipe.model.name).cost.get("etl", 1.0)
    there = sum(spark_cores(host.slots, host.facts) for host in job.cluster)
    gain = cost / len(job.facts.cores) - cost * SPARK_COST / there  # seconds a million rows
    return int((SPARK_START_S - START_S["etl"]) / gain * 1e6) if gain > 0 else None


def etl_values(job: Job) -> list[Value]:
    """The engine of the ETL and its address, as far as the user left them open."""
    etl, place = job.recipe.etl, place_etl(job)
    if place is not None:
        changed = [Value("etl.engine", place.engine, "advisor", place.reason)]
        address = Value("etl.address", None, "advisor", place.reason)
        return [address] if place.engine == etl.engine else changed
    if etl.engine != "auto":
        if etl.engine == "spark" and etl.address is None:
            address = Value(
                "etl.address", f"local[{len(job.facts.cores)}]", "advisor",
                "no cluster named: Spark on this host",
            )  # fmt: skip
            return [address]
        return []
    if etl.address:
        return [Value("etl.engine", "spark", "advisor", f"an address is given: {etl.address}")]
    return [
        Value("etl.engine", "sail", "advisor", "one host: the embedded engine needs no Java"),
    ]


def about_address(job: Job) -> str:
    """What an address of the user's must offer, "" where there is none."""
    address = job.recipe.etl.address or ""
    if job.recipe.etl.engine == "sail" or not address.startswith(("spark://", "sc://")):
        return ""
    return SHARED if address.startswith("spark://") else SHARED_BY_SERVER


def engine_name(job: Job, values: Mapping[str, Any]) -> str:
    """The ETL's engine and its place, as people read them."""
    place = place_etl(job)
    there = place is not None and place.host != LOCAL
    if values["etl.engine"] == "sail":
        return f"Sail (embedded) on {job.cluster[0].name}" if there else "Sail (embedded)"
    if there:
        return f"Apache Spark on {', '.join(host.name for host in job.cluster)}"
    return f"Apache Spark ({values['etl.address']})"
