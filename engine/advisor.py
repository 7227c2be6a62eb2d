"""SDA: fills in what the recipe leaves open, a reason for each choice, and makes the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.environments import WORKS_IN
from engine.errors import EnvironmentProblem
from engine.facts import FileFacts
from engine.plan import Estimate, Plan, PlannedValue, Step, identify
from engine.recipe import Recipe, Value, flatten
from hosts import java, mpi
from hosts.inventory import LOCAL
from hosts.probe import HostFacts
from models import catalog
from models.api import ModelSpec
from models.settings import resolve

BYTES_PER_ROW = {"criteo": 240.0, "table": 100.0}
GZIP_FACTOR = 3.5
START_S = {"etl": 5.0, "spark": 25.0, "torch": 8.0, "ipex": 12.0}
ENVIRONMENT_MINUTES = {"etl": 0.5, "spark": 1.5, "torch": 1.5, "ipex": 4.0}
DISK_GIB = {"data": 0.24, "etl": 0.16, "train": 0.02}  # output of a step for a million rows
CHECKPOINT_GIB = 0.03  # for a million rows: weights, the best ones, the optimizer's state
TABLE_MEMORY, TABLE_SHARE = "model.settings.table_memory_gib", 0.5
# bench/results/spark.json, 1 M rows on three hosts that share two cores: the step took 58.8 s, of
# which the work 27.6 s (on Sail 2.2 s); the rest is Spark's start and end, and the data's way.
SPARK_START_S = 31.0
SPARK_COST = 12.5  # CPU-seconds of a row on Spark for one on Sail
MANY_CORES = 8  # above it a rank gets several cores


@dataclass(frozen=True, kw_only=True)
class ClusterHost:
    """A host of the cluster that trains."""

    name: str
    slots: int | None
    facts: HostFacts
    problems: Sequence[str] = ()  # a sentence for each thing that keeps it from working
    missing_gib: Mapping[str, float] = field(default_factory=dict)  # wheels it lacks
    room_gib: Mapping[str, float] = field(default_factory=dict)  # disk for what it lacks

    @property
    def capacity(self) -> int:
        """How many ranks it takes: what the inventory says, else one for each core, a few of them
        on a large host."""
        return self.slots or one_host_ranks(self.facts)


@dataclass(frozen=True)
class Job:
    """What the advisor looks at."""

    name: str
    recipe: Recipe
    origins: Mapping[str, str]
    facts: HostFacts
    files: Sequence[FileFacts]
    missing_gib: Mapping[str, float]  # disk that environments not yet installed will take
    cluster: Sequence[ClusterHost] = ()  # empty: this machine
    shared: str | None = None  # the folder that all hosts of the cluster see
    has_jdk: bool = False  # whether a Java runtime can be made here for hosts without one


def advise(job: Job) -> dict[str, Value]:
    """A value for each key the user left open."""
    return {value.key: value for value in (_ranks(job), *_etl(job)) if value}


def _size_of_ipex(job: Job) -> str:
    """What the user's choice of the large environment costs, "" for the usual one."""
    if job.recipe.train.environment != "ipex":
        return ""
    if "ipex" not in job.missing_gib:
        return "Intel Extension for PyTorch; installed"
    size = job.missing_gib["ipex"]
    return f"Intel Extension for PyTorch, with CUDA libraries: {size:.1f} GiB are to be installed"


def _ranks(job: Job) -> Value | None:
    if job.recipe.train.ranks != "auto":
        return None
    if job.cluster:
        shares = ", ".join(f"{host.capacity} on {host.name}" for host in job.cluster)
        ranks = sum(host.capacity for host in job.cluster)
        return Value("train.ranks", ranks, "advisor", f"what the hosts take: {shares}")
    cores = job.facts.physical_cores
    rows = row_count(job)
    if rows < 20_000:
        return Value("train.ranks", 1, "advisor", f"{rows:,} rows: one rank ends sooner than two")
    ranks = one_host_ranks(job.facts)
    if cores <= MANY_CORES:
        return Value("train.ranks", ranks, "advisor", f"one rank for each of {cores} cores")
    reason = f"{cores} cores in {len(job.facts.numa)} NUMA nodes: {cores // ranks} cores a rank"
    return Value("train.ranks", ranks, "advisor", reason)


def one_host_ranks(facts: HostFacts) -> int:
    """Ranks that use a host well: one a core, on a large host one for several cores of a node."""
    cores = facts.physical_cores
    return cores if cores <= MANY_CORES else max(len(facts.numa), cores // MANY_CORES)


def lay_out(
    hosts: Sequence[ClusterHost], ranks: int | None = None
) -> list[tuple[ClusterHost, mpi.Layout]]:
    """How ranks lie on the hosts of a cluster, by default as many as they take; a host that gets
    none is left out."""
    capacities = [host.capacity for host in hosts]
    shares = mpi.share_ranks(capacities, sum(capacities) if ranks is None else ranks)
    return [
        (host, mpi.plan_layout(host.facts, share))
        for host, share in zip(hosts, shares, strict=True)
        if share
    ]


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
    rows, least = row_count(job), _rows_for_spark(job)
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


def spark_cores(slots: int | None, facts: HostFacts) -> int:
    """Cores that a host gives Spark: its slots, where the inventory names them."""
    return slots or len(facts.cores)


def _rows_for_spark(job: Job) -> int | None:
    """From how many rows on Spark over the hosts ends before the embedded engine here; None: never,
    since a row costs Spark SPARK_COST times as much."""
    cost = catalog.load(job.recipe.model.name).cost.get("etl", 1.0)
    there = sum(spark_cores(host.slots, host.facts) for host in job.cluster)
    gain = cost / len(job.facts.cores) - cost * SPARK_COST / there  # seconds a million rows
    return int((SPARK_START_S - START_S["etl"]) / gain * 1e6) if gain > 0 else None


def _etl(job: Job) -> list[Value]:
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


def row_count(job: Job) -> int:
    """Rows of the data set: exact for generated data, a guess by size otherwise."""
    if job.recipe.dataset.generate:
        return job.recipe.dataset.generate.rows
    size = sum(
        f.size * (GZIP_FACTOR if f.path.suffix in (".gz", ".parquet") else 1.0) for f in job.files
    )
    return max(1, int(size / BYTES_PER_ROW[job.recipe.dataset.format]))


def make_plan(job: Job) -> Plan:
    """The finished recipe as steps; what stands against running it is in `problems`."""
    spec = catalog.load(job.recipe.model.name)
    values = finish(job, spec)
    by_key = {value.key: value.value for value in values}
    steps = _steps(job, spec, by_key)
    environments = tuple(dict.fromkeys(step.environment for step in steps))
    provision = Step(
        id="provision",
        kind="provision",
        title="environments " + ", ".join(environments),
        estimate=Estimate(
            minutes=sum(ENVIRONMENT_MINUTES[e] for e in environments if e in job.missing_gib),
            memory_gib=0.3,
            disk_gib=round(sum(job.missing_gib.get(e, 0.0) for e in environments), 2),
            network_gib=_environments_gib(job, steps),
        ),
    )
    report = Step(
        id="report",
        kind="report",
        title="report",
        needs=tuple(step.id for step in steps),
        estimate=Estimate(minutes=0.01, memory_gib=0.1, disk_gib=0.001),
    )
    plan_steps = (provision, *steps, report)
    return Plan(
        recipe=job.name,
        model=spec.name,
        steps=plan_steps,
        values=tuple(values),
        environments=environments,
        facts={LOCAL: asdict(job.facts), **{h.name: asdict(h.facts) for h in job.cluster}},
        data=tuple(
            {"path": str(f.path), "size": f.size, "digest": f.digest, "verified": f.verified}
            for f in job.files
        ),
        problems=tuple(_obstacles(job, plan_steps, by_key)),
    )


def finish(job: Job, spec: ModelSpec) -> list[PlannedValue]:
    """Every value of the recipe and of the model's settings, with origin and reason."""
    advised = advise(job)
    found = []
    for key, value in flatten(job.recipe.model_dump()).items():
        if key.startswith("model.settings"):
            continue
        origin = job.origins.get(key, "built-in")
        if key in advised:
            chosen = advised[key]
            found.append(
                PlannedValue(
                    key=key, value=chosen.value, origin=chosen.origin, reason=chosen.reason
                )
            )
        else:
            reason = _size_of_ipex(job) if key == "train.environment" else ""
            found.append(PlannedValue(key=key, value=value, origin=origin, reason=reason))
    profile = spec.profiles[job.recipe.model.profile]
    settings, _ = resolve(spec.settings, profile, job.recipe.model.settings)
    for name, setting in settings.items():
        key = f"model.settings.{name}"
        origin = job.origins.get(key) or (
            f"profile {job.recipe.model.profile}" if name in profile else "built-in"
        )
        limit = _table_memory(job, settings) if key == TABLE_MEMORY else None
        if limit is not None and key not in job.origins:
            found.append(limit)
            continue
        plain = "-".join(map(str, setting)) if isinstance(setting, tuple) else setting
        found.append(PlannedValue(key=key, value=plain, origin=origin))
    return found


def _table_memory(job: Job, settings: Mapping[str, Any]) -> PlannedValue | None:
    """Over several hosts tables that do not fit beside each other are spread: half of a host's
    memory is theirs, the rest for rows, gradients and the system."""
    if not job.cluster or not settings.get("fused_tables"):
        return None
    room = {h.name: h.facts.memory_gib * TABLE_SHARE / h.capacity for h in job.cluster}
    least = min(room, key=lambda name: room[name])
    return PlannedValue(
        key=TABLE_MEMORY, value=round(room[least], 2), origin="advisor",
        reason=f"half of the memory of {least}, by its ranks: larger tables are spread over ranks",
    )  # fmt: skip


def environment_of(spec: ModelSpec, worker: str, values: Mapping[str, Any]) -> str:
    """The environment a worker of this job runs in."""
    if worker == "etl":
        return "spark" if values["etl.engine"] == "spark" else "etl"
    environment = spec.workers[worker].environment
    return str(values["train.environment"]) if environment == "torch" else environment


def _steps(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> list[Step]:
    """data -> etl, roofline -> train -> evaluate, optimize; each with identity and estimate."""
    recipe = job.recipe
    settings = {
        key.removeprefix("model.settings."): value
        for key, value in values.items()
        if key.startswith("model.settings.")
    }
    only_etl = set(spec.workers["etl"].settings)
    split = recipe.split.model_dump()
    dataset = {
        "format": recipe.dataset.format,
        "columns": recipe.dataset.columns.model_dump() if recipe.dataset.columns else None,
    }
    steps: list[Step] = []

    def add(kind: str, worker: str, title: str, needs: Sequence[str], own: Mapping[str, Any],
            inputs: Sequence[str] = (), host: str = LOCAL) -> None:  # fmt: skip
        environment = environment_of(spec, worker, values)
        ids = [next(s.identity for s in steps if s.id == need) for need in needs]
        steps.append(
            Step(
                id=kind,
                kind=kind,
                title=title,
                host=host,
                worker=worker,
                environment=environment,
                needs=tuple(needs),
                settings=own,
                identity=identify(
                    kind, spec.workers[worker], environment, spec, own, [*ids, *inputs]
                ),
                estimate=_estimate(job, spec, kind, worker, environment, values),
            )
        )

    generate = recipe.dataset.generate
    if generate:
        made = {**generate.model_dump(), "split": split}
        add("data", "generate", f"make {generate.rows:,} rows of {spec.title} data", (), made)
    own: dict[str, Any] = {
        "dataset": dataset,
        "split": split,
        "settings": _subset(settings, only_etl),
    }
    first = ("data",) if generate else ()
    place = place_etl(job)
    add("etl", "etl", f"prepare data on {_engine_name(job, values)}", first, own,
        [f"{f.size}:{f.mtime_ns}:{f.digest}" for f in job.files],
        place.host if place else LOCAL)  # fmt: skip
    # What the peaks depend on: another host, processor or set of cores is measured anew.
    host = {"host": job.facts.hostname, "cpu": job.facts.cpu_model, "cores": job.facts.cores}
    add("roofline", "roofline", "matmul and memory peaks of this machine", (), host)
    goal = recipe.goal
    own = {
        "model": spec.name,
        "settings": {k: v for k, v in settings.items() if k not in only_etl},
        "ranks": values["train.ranks"],
        "seed": recipe.seed,
        "goal": {"metric": goal.metric, "target": goal.target, "minutes": goal.minutes},
    }
    ranks = values["train.ranks"]
    title = f"train {spec.title} ({recipe.model.profile}), {ranks} rank{'s' if ranks > 1 else ''}"
    if job.cluster:
        title += f" on {', '.join(host.name for host in job.cluster)}"
    add("train", "train", title, ("etl",), own, host=recipe.cluster)
    add("evaluate", "evaluate", "test metric", ("etl", "train", *first), {"split": "test"})
    own = {"metric": goal.metric, "max_metric_drop": goal.max_metric_drop, "dataset": dataset}
    add("optimize", "optimize", "inference export", ("etl", "train"), own)
    return steps


def _subset(settings: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in names}


def _engine_name(job: Job, values: Mapping[str, Any]) -> str:
    place = place_etl(job)
    there = place is not None and place.host != LOCAL
    if values["etl.engine"] == "sail":
        return f"Sail (embedded) on {job.cluster[0].name}" if there else "Sail (embedded)"
    if there:
        return f"Apache Spark on {', '.join(host.name for host in job.cluster)}"
    return f"Apache Spark ({values['etl.address']})"


def _estimate(
    job: Job, spec: ModelSpec, kind: str, worker: str, environment: str, values: Mapping[str, Any]
) -> Estimate:
    """CPU-seconds a million rows (ModelSpec.cost) over the cores, plus the start of Python."""
    millions = 0.0 if kind == "roofline" else row_count(job) / 1e6  # it reads no data
    cost = spec.cost.get(f"{worker}/{job.recipe.model.profile}", spec.cost.get(worker, 1.0))
    epochs = int(values["model.settings.epochs"]) if kind == "train" else 1
    cores = len(job.facts.cores) if kind in ("etl", "train") else 1
    if kind == "train" and job.cluster:
        cores = sum(len(host.facts.cores) for host in job.cluster)
    start_s, place = START_S[environment], place_etl(job) if kind == "etl" else None
    if place is not None and place.host != LOCAL:
        cores = spark_cores(job.cluster[0].slots, job.cluster[0].facts)
        if place.engine == "spark":
            cores = sum(spark_cores(host.slots, host.facts) for host in job.cluster)
            start_s, cost = SPARK_START_S, cost * SPARK_COST
    seconds = start_s + millions * cost * epochs / cores
    disk = DISK_GIB.get(kind, 0.001) * millions
    memory = {"data": 0.3, "etl": 1.0 + 0.25 * millions, "train": 0.6 * values["train.ranks"]}
    network = _training_gib(job, spec, values, millions, seconds) if kind == "train" else 0.0
    return Estimate(
        minutes=round(seconds / 60, 3),
        memory_gib=round(memory.get(kind, 0.8) + (0.16 * millions if kind != "data" else 0), 2),
        disk_gib=round(disk + 0.002, 3),
        network_gib=round(network, 4),
    )


def _environments_gib(job: Job, steps: Sequence[Step]) -> float:
    """The wheels that go to hosts of the cluster: what works there and is not there yet."""
    needed = _environments_there(job, steps)
    return round(sum(host.missing_gib.get(name, 0.0) for host in job.cluster for name in needed), 3)


def _environments_there(job: Job, steps: Sequence[Step]) -> list[str]:
    """The environments that work on the hosts of the cluster."""
    there = (step.environment for step in steps if step.host == job.recipe.cluster != LOCAL)
    return sorted(set(there))


def _training_gib(
    job: Job, spec: ModelSpec, values: Mapping[str, Any], millions: float, seconds: float
) -> float:
    """Data to the hosts, checkpoints back, and what ranks tell each other over the wire.

    Each rank must hear of every row that others train. In gloo's ring a host gets over the wire
    what all ranks say but one, so that goes once to each host.
    """
    hosts, ranks = len(job.cluster), int(values["train.ranks"])
    if not hosts:
        return 0.0
    data = DISK_GIB["etl"] * millions * (1 if job.shared else hosts)
    saves = 1 + seconds // float(values["train.checkpoint_s"])
    told = spec.traffic.get(job.recipe.model.profile, spec.traffic.get("", 0.0))
    rows = millions * 1e6 * int(values["model.settings.epochs"])
    between = rows * told * (ranks - 1) / ranks * hosts / 2**30 if hosts > 1 else 0.0
    return data + saves * CHECKPOINT_GIB * millions + between


def _obstacles(job: Job, steps: Sequence[Step], values: Mapping[str, Any]) -> list[str]:
    """What would make the run fail, known before it starts."""
    problems = [problem for host in job.cluster for problem in host.problems]
    need = sum(step.estimate.disk_gib for step in steps if not step.reuse)
    if need > job.facts.disk_free_gib:
        problems.append(
            f"the disk has {_size(job.facts.disk_free_gib)} free, the run needs about "
            f"{_size(need)}; "
            "free some (aiok clean), or set AIOK_HOME to a larger disk"
        )
    problems += _host_disks(job, _environments_there(job, steps))
    memory = max(step.estimate.memory_gib for step in steps if step.host == LOCAL)
    if memory > job.facts.memory_gib:
        problems.append(
            f"a step needs about {memory:.1f} GiB of memory, "
            f"this machine has {job.facts.memory_gib:.1f}"
        )
    if values["train.environment"] == "ipex" and "avx2" not in job.facts.isa:
        problems.append(
            "Intel Extension for PyTorch needs a CPU with AVX2 and this host has none; "
            "set train.environment=torch"
        )
    return problems + _java_problems(job, values)


def _host_disks(job: Job, needed: Sequence[str]) -> list[str]:
    """Hosts without space for the environments that this recipe needs there; the preflight, which
    knows no recipe, has counted that of `train` alone."""
    problems = []
    for host in job.cluster:
        lacks = [name for name in needed if name in host.room_gib]
        need, free = sum(host.room_gib[name] for name in lacks), host.facts.disk_free_gib
        if need > free and lacks != [WORKS_IN]:
            problems.append(
                f"{host.name}: {_size(free)} free, the environments {' and '.join(lacks)} need "
                f"about {_size(need)}; free some, or choose another work_folder in the inventory"
            )
    return problems


def _java_problems(job: Job, values: Mapping[str, Any]) -> list[str]:
    """Spark needs Java, where its driver and its workers run."""
    if values["etl.engine"] != "spark":
        return []
    place = place_etl(job)
    if place is not None:
        lacking = [host.name for host in job.cluster if not java.is_fit(host.facts.java)]
        return [java.is_missing(lacking)] if lacking and not job.has_jdk else []
    address = str(values["etl.address"] or "")
    if address.startswith("sc://") or job.facts.java:
        return []
    return [
        "the plan needs Java 17 or 21 for Apache Spark and this host has none; install it "
        "(Debian: apt-get install openjdk-17-jre-headless), or set etl.engine=sail"
    ]


def _size(gib: float) -> str:
    """A size as people read it: 30 MiB, 2.50 GiB."""
    return f"{gib * 1024:.0f} MiB" if gib < 0.1 else f"{gib:.2f} GiB"


def refuse(plan: Plan) -> None:
    """EnvironmentProblem with all obstacles of a plan, if it has any."""
    if plan.problems:
        raise EnvironmentProblem("\n".join(plan.problems))
