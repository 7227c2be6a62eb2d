"""The command line: one short body a verb; what a verb needs is imported when it is called."""

from __future__ import annotations

import os
import signal
import sys
import threading
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _Verbs(TyperGroup):
    """The verbs. A reader that left early (`aiok runs | head`) is no failed run: exit 141."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered goes there
            raise typer.Exit(141) from None


app = typer.Typer(
    name="aiok",
    cls=_Verbs,
    help="From raw data to a trained, served model on ordinary CPUs, by one command.",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Make, inspect, check and register data.", rich_markup_mode=None)
hosts_app = typer.Typer(help="The machines work runs on.", rich_markup_mode=None)
env_app = typer.Typer(help="The environments work runs in.", rich_markup_mode=None)
app.add_typer(data_app, name="data", no_args_is_help=True)
app.add_typer(hosts_app, name="hosts", no_args_is_help=True)
app.add_typer(env_app, name="env", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="JSON lines on stdout instead of text.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="KEY=VALUE; a bare setting name means model.settings.NAME."),
]
Run = Annotated[str, typer.Argument(help="The id of a run, as `aiok runs` lists them.")]
RecipeName = Annotated[str, typer.Argument(help="A shipped recipe, or a path to a .yaml file.")]
Columns = Annotated[
    str | None,
    typer.Option(help="For a table: label=NAME,numeric=A+B,categorical=C+D[,time=T]."),
]
Verify = Annotated[bool, typer.Option("--verify", help="Hash all of the data, not its ends.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"aiok {version('aiok')}")
        except PackageNotFoundError:
            from aiok_tui.output import checkout_version

            print(f"aiok {checkout_version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        from aiok_tui.app import main as open_app

        raise typer.Exit(open_app())


@app.command()
def new(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The recipe file.")] = None,
    plain: Annotated[bool, typer.Option(help="Questions on plain lines (the default).")] = True,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema.")] = False,
) -> None:
    """Write a recipe by answering the wizard's questions."""
    from aiok_tui import wizard

    wizard.print_schema() if schema else wizard.ask(output)


@app.command()
def plan(recipe: RecipeName, set: Set = None, json: Json = False, verify: Verify = False) -> None:
    """Show what a run would do: steps, estimates, and where every value comes from."""
    from aiok_tui import output
    from engine import api

    made = api.plan(recipe, set or [], verify=verify)
    output.print_plan(made, json)
    if made.problems:
        raise typer.Exit(3)


@app.command()
def run(
    recipe: RecipeName,
    set: Set = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait for the end.")
    ] = False,
    json: Json = False,
    folder: Annotated[Path | None, typer.Option(help="A run folder of your own.")] = None,
    verify: Verify = False,
) -> None:
    """Run a recipe from data to report."""
    from aiok_tui import output
    from engine import api

    def start() -> str:
        return api.start(recipe, set or [], folder=folder, verify=verify)

    if detach:
        output.print_started(start(), json)
    else:
        raise typer.Exit(output.run_to_end(start, json))


@app.command()
def runs(json: Json = False) -> None:
    """List all runs, newest first."""
    from aiok_tui import output
    from engine import api

    output.print_runs(api.runs(), json)


@app.command()
def show(
    run: Run,
    json: Json = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends.")] = False,
) -> None:
    """Show a run: steps, results, decisions, and what went wrong."""
    from aiok_tui import output
    from engine import api

    if follow:
        raise typer.Exit(output.follow_to_end(run, json))
    output.print_state(api.state(run), json, api.run_hosts(run))


@app.command()
def trials(
    run: Run,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout.")] = False,
    best: Annotated[
        Path | None, typer.Option(help="Write the recipe of the best trial to this file.")
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="With --best: of this trial.")] = None,
    export: Annotated[str | None, typer.Option(help="For optuna-dashboard: optuna[=FILE].")] = None,
) -> None:
    """Show the trials of a search, which are best, and what mattered."""
    from aiok_tui import trials as shown

    shown.show_or_save(run, json, csv, best, trial, export)


@app.command()
def logs(
    run: Run,
    step: Annotated[str | None, typer.Argument(help="Only this step.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
) -> None:
    """Print the logs of a run."""
    from aiok_tui import output

    output.print_logs(run, step, follow)


@app.command()
def stop(
    run: Run, kill: Annotated[bool, typer.Option(help="End it at once, no checkpoint.")] = False
) -> None:
    """Ask a run to save a checkpoint and end."""
    from aiok_tui import output
    from engine import api

    output.print_stopped(run, api.stop(run, kill))


@app.command()
def resume(
    run: Run,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait for the end.")
    ] = False,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave this host of the cluster out, from now on.")
    ] = None,
    all_hosts: Annotated[
        bool, typer.Option("--all-hosts", help="Take back hosts that were left out.")
    ] = False,
    json: Json = False,
) -> None:
    """Go on with a stopped, failed or lost run."""
    from aiok_tui import output
    from engine import api

    seen = api.journal_size(run)

    def resumed() -> str:
        return api.resume(run, without or [], all_hosts)

    if detach:
        output.print_started(resumed(), json)
    else:
        raise typer.Exit(output.run_to_end(resumed, json, offset=seen))


@app.command()
def clean(
    everything: Annotated[bool, typer.Option("--all", help="Finished runs too.")] = False,
    run: Annotated[list[str] | None, typer.Option(help="Delete this run.")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Free disk: cached outputs no run needs, old code, half-built things."""
    from aiok_tui import output
    from engine import housekeeping

    output.print_cleaned(housekeeping.clean(run or [], everything, dry), dry, json)


@app.command()
def models(name: Annotated[str | None, typer.Argument()] = None, json: Json = False) -> None:
    """List the models, or show one with its settings."""
    from aiok_tui import output
    from engine import api

    output.print_models(api.models(), name, json)


@app.command()
def register(file: Annotated[Path, typer.Argument(help="The program's YAML file.")]) -> None:
    """Make a program of yours a model; again, after its file has changed."""
    from aiok_tui import program_output
    from engine.programs import registry

    program_output.print_registered(registry.register(file))


@app.command()
def unregister(name: Annotated[str, typer.Argument(help="A registered program.")]) -> None:
    """Forget a program; its own files stay."""
    from engine.programs import registry

    registry.unregister(name)
    print(f"{name} is no model any more; its files stay")


@app.command()
def check(
    program: Annotated[str, typer.Argument(help="A registered program, or its YAML file.")],
    data: Annotated[Path | None, typer.Option(help="What {data_path} stands for.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long the trial may take.")] = 60.0,
    json: Json = False,
) -> None:
    """Run one trial of a program: the exact command, each metric, and why one is missing."""
    from aiok_tui import program_output
    from engine.programs import check as program_check

    trial = program_check.prepare(program, data, seconds)
    program_output.print_command(trial, json)
    raise typer.Exit(program_output.print_outcome(program_check.run(trial), json))


@app.command()
def predict(
    run: Run,
    input: Annotated[Path, typer.Option("--input", "-i", help="A file or a folder of new rows.")],
    output_file: Annotated[Path, typer.Option("--output", "-o", help="The CSV to write.")],
    batch_size: Annotated[int, typer.Option(min=1, max=1 << 20)] = 4096,
    json: Json = False,
) -> None:
    """Score raw new rows with the exported model of a finished run."""
    from aiok_tui import job_output
    from engine import data_jobs

    listener = job_output.ProgressPrinter(json)
    result = data_jobs.predict(run, input, output_file, batch_size, listener)
    job_output.print_predicted(result, json, f"wrote {output_file}")


@app.command()
def report(run: Run, json: Json = False) -> None:
    """Say where the report of a run lies (--json: print its JSON twin)."""
    from aiok_tui import output
    from engine import api

    output.print_report(api.report(run), json)


@app.command()
def doctor(json: Json = False) -> None:
    """Check this machine and this installation; each problem with its fix."""
    from aiok_tui import output
    from engine import doctor as examine

    raise typer.Exit(output.print_findings(examine.findings(), json))


@app.command()
def drill(
    faults: Annotated[list[str] | None, typer.Option(help="Only this fault.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Only under this policy.")] = None,
    json: Json = False,
) -> None:
    """Strike runs in a sandbox with faults, and show for each the promise and what was seen."""
    from aiok_tui import drill as printed
    from engine.faults import POLICIES

    raise typer.Exit(printed.run(faults or [], policy or POLICIES, json))


@app.command()
def bundle(
    output_file: Annotated[Path, typer.Option("--output", "-o", help="The .tar file to write.")],
    env: Annotated[
        list[str] | None, typer.Option(help="An environment to take along; etl and torch if none.")
    ] = None,
) -> None:
    """Make one file for a site without internet: this checkout with all the wheels it needs."""
    from aiok_tui import job_output
    from engine import bundle as packing

    made = packing.make(output_file, env or ["etl", "torch"], job_output.progress_line("bundle"))
    print(f"{made}: unpack it there and start aiok/scripts/aiok")


@data_app.command("make")
def data_make(
    output_folder: Annotated[Path, typer.Argument(help="A new folder.")],
    model: Annotated[str, typer.Option(help="Whose format.")] = "dlrm",
    rows: Annotated[int, typer.Option(min=1000)] = 100_000,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    json: Json = False,
) -> None:
    """Make data in a model's public format, with a signal to learn."""
    from aiok_tui import job_output
    from engine import data_jobs

    listener = job_output.ProgressPrinter(json)
    result = data_jobs.make(model, rows, seed, output_folder, listener)
    job_output.print_result(result, json, f"wrote {output_folder}")


@data_app.command("profile")
def data_profile(
    path: Annotated[str, typer.Argument(help="A file, a folder, or a registered name.")],
    format: Annotated[str, typer.Option(help="criteo or table.")] = "criteo",
    columns: Columns = None,
    json: Json = False,
) -> None:
    """Count and describe every column."""
    from aiok_tui import job_output
    from engine import data_jobs

    listener = job_output.ProgressPrinter(json)
    job_output.print_profile(data_jobs.profile(path, format, columns, listener), json)


@data_app.command("check")
def data_check(
    path: Annotated[str, typer.Argument(help="A file, a folder, or a registered name.")],
    format: Annotated[str, typer.Option(help="criteo or table.")] = "criteo",
    columns: Columns = None,
    json: Json = False,
) -> None:
    """Read all rows strictly; name file, line and column of what is wrong."""
    from aiok_tui import job_output
    from engine import data_jobs

    listener = job_output.ProgressPrinter(json)
    job_output.print_result(
        data_jobs.check(path, format, columns, listener), json, "no problem found"
    )


@data_app.command("add")
def data_add(
    name: str,
    path: Path,
    format: Annotated[str, typer.Option(help="criteo or table.")] = "criteo",
    columns: Columns = None,
) -> None:
    """Register files under a name; recipes say `dataset: {name: NAME}`."""
    from aiok_tui import output
    from engine import data_jobs, datasets

    added = datasets.add(name, path, format, data_jobs.parse_columns(columns))
    output.print_datasets([added], False)


@data_app.command("list")
def data_list(json: Json = False) -> None:
    """List the registered data sets."""
    from aiok_tui import output
    from engine import datasets

    output.print_datasets(datasets.listing(), json)


@data_app.command("remove")
def data_remove(name: str) -> None:
    """Forget a registered data set; its files stay."""
    from engine import datasets

    datasets.remove(name)
    print(f"{name} is no longer registered; its files stay")


@hosts_app.command("probe")
def hosts_probe(json: Json = False) -> None:
    """Facts of this machine: cores, instruction sets, memory, disk, Java."""
    from aiok_tui import output
    from engine import api

    output.print_facts(api.host_facts(), json)


@hosts_app.command("add")
def hosts_add(
    place: Annotated[str, typer.Argument(help="[USER@]ADDRESS of the host.")],
    name: Annotated[str | None, typer.Option(help="Its name; by default h1, h2, ...")] = None,
    cluster: Annotated[str | None, typer.Option(help="The cluster it joins.")] = None,
    key: Annotated[Path | None, typer.Option(help="Your private key for it.")] = None,
    agent: Annotated[bool, typer.Option("--agent", help="Ask your ssh-agent too.")] = False,
    password: Annotated[bool, typer.Option("--password", help="Ask for a password.")] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="By default 22.")] = None,
    jump: Annotated[str | None, typer.Option(help="The host through which it is reached.")] = None,
    work_folder: Annotated[str | None, typer.Option(help="Where aiok keeps its files.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Ranks it takes.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="SHA256:... of its key, to add without a question.")
    ] = None,
) -> None:
    """Add a host: compare its key's fingerprint once, it is pinned from then on."""
    from aiok_tui import hosts

    fields = {"key": str(key) if key else None, "agent": agent or None, "port": port,
              "password": password or None, "jump": jump, "work_folder": work_folder,
              "slots": slots}  # fmt: skip
    hosts.add(place, name, cluster, fields, fingerprint)


@hosts_app.command("list")
def hosts_list(json: Json = False) -> None:
    """List hosts and clusters."""
    from aiok_tui import hosts

    hosts.print_inventory(json)


@hosts_app.command("check")
def hosts_check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Clusters and hosts; all when none is named.")
    ] = None,
    json: Json = False,
) -> None:
    """Tell all that keeps hosts from working, each with what to do. Changes nothing."""
    from aiok_tui import hosts

    raise typer.Exit(hosts.check(names or [], json))


@hosts_app.command("top")
def hosts_top(
    names: Annotated[
        list[str] | None, typer.Argument(help="Clusters and hosts; all when none is named.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show them once, then end.")] = False,
    json: Json = False,
) -> None:
    """Show live what hosts do: CPU, memory, disk, network. Ctrl+C ends it; nothing is placed."""
    from aiok_tui import top

    raise typer.Exit(top.top(names or [], json, once))


@hosts_app.command("up")
def hosts_up(
    cluster: Annotated[str, typer.Argument(help="A cluster, or one host.")],
    env: Annotated[list[str] | None, typer.Option(help="An environment to install.")] = None,
    json: Json = False,
) -> None:
    """Make hosts ready: code, environments, keys between them. Changes nothing twice."""
    from aiok_tui import hosts

    raise typer.Exit(hosts.up(cluster, env or ["torch"], json))


@hosts_app.command("down")
def hosts_down(
    cluster: Annotated[str, typer.Argument(help="A cluster, or one host.")], json: Json = False
) -> None:
    """Take everything of aiok off the hosts again, keys included."""
    from aiok_tui import hosts

    raise typer.Exit(hosts.down(cluster, json))


@hosts_app.command("remove")
def hosts_remove(name: str) -> None:
    """Forget a host and its pinned key."""
    from engine import host_jobs

    host_jobs.remove(name)
    print(f"{name} is forgotten")


@env_app.command("list")
def env_list(json: Json = False) -> None:
    """List the environments and whether they are installed."""
    from aiok_tui import output
    from engine import environments

    output.print_environments(environments.listing(), json)


@env_app.command("install")
def env_install(
    names: Annotated[list[str], typer.Argument(help="etl, spark, torch, ipex, ...")],
    wheels: Annotated[
        list[Path] | None, typer.Option(help="A folder of wheels to take from first.")
    ] = None,
    accept_large_torch: Annotated[
        bool, typer.Option("--accept-large-torch", help="Take the stock torch of several GB.")
    ] = False,
) -> None:
    """Install environments ahead of a run."""
    from aiok_tui import job_output, output
    from engine import environments

    for name in names:
        if size := environments.size_to_install_here(name):
            output.words(f"{name}: {size}")
        fresh = environments.install_here(
            name, job_output.progress_line(name), wheels or [], accept_large_torch
        )
        print(f"{name}: {'installed' if fresh else 'already installed'}")


@env_app.command("remove")
def env_remove(names: list[str]) -> None:
    """Delete environments; the next run that needs one installs it again."""
    from engine import environments

    for name in names:
        print(f"{name}: {'removed' if environments.remove_environment(name) else 'not installed'}")


def main(argv: list[str] | None = None) -> Any:
    """Entry point: errors become one clear text on stderr and an exit code."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing is left half-written
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name it cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        return app(args=argv, prog_name="aiok", standalone_mode=True)
    except KeyboardInterrupt:
        return _leave(130)
    except Exception as error:  # noqa: BLE001 - the border: a person reads one clear text
        from aiok_tui.output import tell_error

        return _leave(tell_error(error))


def _leave(code: int) -> None:
    raise SystemExit(code)


if __name__ == "__main__":
    main()
