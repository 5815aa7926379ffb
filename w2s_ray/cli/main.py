"""The verbs of `w2s`. Each parses its arguments and imports its module only when it is called."""

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from w2s_ray.cli.terminal import terminal
from w2s_ray.errors import W2SError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
StoreFolder = Annotated[
    Path,
    typer.Option("--store", envvar="W2S_STORE", metavar="DIR", help="Folder of all artifacts.", show_default=True),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH.TO.KEY=VALUE", help="Override a study key (repeatable)."),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Re-run failed search candidates.")]
Yes = Annotated[bool, typer.Option("--yes", help="Allow studies of more than 100,000 chains.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Imports = Annotated[
    list[Path] | None,
    typer.Option(
        "--import", metavar="FILE.py", help="Python file that registers your own losses and metrics (repeatable)."
    ),
]
DEFAULT_STORE = Path("w2s-store")


@app.callback()
def start(context: typer.Context, import_: Imports = None) -> None:
    """Weak-to-strong generalization studies: one YAML file, each distinct training run exactly once."""
    context.obj = import_ or []
    if import_:
        from w2s_ray.cli.inputs import import_file

        for file in import_:
            import_file(file)


@app.command()
def plan(study: StudyFile, store: StoreFolder = DEFAULT_STORE, set_: Overrides = None, json: AsJson = False) -> None:
    """Print the chains and distinct stages of a study, and estimate what running them takes."""
    from w2s_ray.cli import plan as verb

    verb.print_plan(study, store, set_ or [], as_json=json)


@app.command()
def run(
    study: StudyFile,
    store: StoreFolder = DEFAULT_STORE,
    set_: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to run on: auto or HOST:PORT; default: this machine.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Take about two steps of each stage, in a temporary store.")
    ] = False,
    retry_failed: RetryFailed = False,
    yes: Yes = False,
) -> None:
    """Run a study, or resume it: finished stages are not trained again."""
    from w2s_ray.cli import run as verb

    if smoke:
        raise typer.Exit(verb.smoke(study, set_ or [], address=address))
    raise typer.Exit(verb.run(study, store, set_ or [], address=address, retry_failed=retry_failed, yes=yes))


@app.command()
def status(study: StudyFile, store: StoreFolder = DEFAULT_STORE, set_: Overrides = None, json: AsJson = False) -> None:
    """Print the state of each stage of a study."""
    from w2s_ray.cli import status as verb

    verb.print_status(study, store, set_ or [], as_json=json)


@app.command()
def report(
    study: StudyFile,
    store: StoreFolder = DEFAULT_STORE,
    set_: Overrides = None,
    format_: Annotated[
        Literal["table", "json", "html"], typer.Option("--format", help="What to print or write.")
    ] = "table",
    version: Annotated[
        int | None, typer.Option(metavar="N", help="A former version of the study, which a changed file replaced.")
    ] = None,
) -> None:
    """Print the results of a study, or write its HTML page and figures."""
    from w2s_ray.cli import report as verb

    verb.report(study, store, set_ or [], format_, version)


@app.command()
def export(
    study: StudyFile,
    stage: Annotated[str, typer.Argument(help="First digits of an identity, or arm:level[:method][:seed].")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    store: StoreFolder = DEFAULT_STORE,
    set_: Overrides = None,
    at: Annotated[
        float | None, typer.Option(help="Export the snapshot after this share of training (optimisation.keep_at).")
    ] = None,
) -> None:
    """Copy a stage's model and tokenizer to a folder that transformers loads."""
    from w2s_ray.cli import report as verb

    verb.export(study, store, set_ or [], stage, folder, at)


@app.command()
def submit(
    context: typer.Context,
    study: StudyFile,
    address: Annotated[str, typer.Option(help="The cluster's dashboard, http://HOST:8265.")],
    store: Annotated[
        str, typer.Option("--store", metavar="DIR", help="Absolute path of a folder that every node can reach.")
    ],
    set_: Overrides = None,
    wait: Annotated[bool, typer.Option(help="Print the job's output until it ends.")] = True,
    retry_failed: RetryFailed = False,
    yes: Yes = False,
) -> None:
    """Run a study as a job of a Ray cluster."""
    from w2s_ray.cli import submit as verb

    command = verb.entrypoint(store, retry_failed=retry_failed, yes=yes, imports=context.obj)
    raise typer.Exit(verb.submit(study, address, store, set_ or [], command, imports=context.obj, wait=wait))


@app.command()
def logs(
    stage: Annotated[
        str, typer.Argument(help="First digits of an identity, part of a slug, or (with --study) arm:level.")
    ],
    study: Annotated[Path | None, typer.Option(metavar="STUDY.yaml", help="Study that has the stage.")] = None,
    store: StoreFolder = DEFAULT_STORE,
    set_: Overrides = None,
    last: Annotated[int, typer.Option("-n", "--last", min=1, help="Number of last steps and log lines to print.")] = 20,
    json: AsJson = False,
) -> None:
    """Print the metrics of a stage's steps, its log, and when it was started."""
    from w2s_ray.cli import status as verb

    verb.print_logs(stage, store, study, set_ or [], last=last, as_json=json)


@app.command()
def gc(
    store: StoreFolder = DEFAULT_STORE,
    former: Annotated[
        bool,
        typer.Option("--former", help="Also list former versions of studies, and the artifacts that only they need."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """List abandoned work and artifacts that no study needs, and remove them after a confirmation."""
    from w2s_ray.cli import gc as verb

    verb.collect(store, yes=yes, former=former)


@app.command()
def doctor(store: StoreFolder = DEFAULT_STORE, json: AsJson = False) -> None:
    """Check this machine: packages, cores, memory, accelerators, the store, W&B and the hub."""
    from w2s_ray.cli import doctor as verb

    raise typer.Exit(verb.examine(store, as_json=json))


@app.command()
def tasks(json: AsJson = False) -> None:
    """List the built-in tasks with their splits, licences, sources and test protocols."""
    from w2s_ray.cli import tasks as verb

    verb.print_tasks(as_json=json)


@app.command()
def bench(
    study: StudyFile,
    level: Annotated[
        str | None, typer.Argument(metavar="LEVEL", help="A level; default: the largest one that is trained.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="DIR", help="Store for prepared data; default: a temporary one."),
    ] = None,
    set_: Overrides = None,
    steps: Annotated[int, typer.Option(min=6, help="Optimizer steps to take.")] = 24,
    json: AsJson = False,
) -> None:
    """Measure speed, memory and the shares of a training step for one level, on this machine."""
    from w2s_ray.cli import bench as verb

    verb.bench(study, level, store, set_ or [], steps=steps, as_json=json)


def main() -> None:
    """Run the command. Errors for the user are printed without a traceback."""
    _leave(_exit_code())


def _exit_code() -> int:
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except W2SError as error:
        terminal.explain(error)
        return error.exit_code
    except KeyboardInterrupt:
        terminal.error("stopped by Ctrl-C")
        return 130
    except BaseException as error:  # a panic of a library in Rust is no Exception
        return _unexpected(error)
    return 0


def _leave(code: int) -> None:
    """End the process.

    If Ray was imported, skip the interpreter's shutdown: a thread of Ray may still be logging, and would crash the
    process.
    """
    if "ray" not in sys.modules:
        sys.exit(code)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _unexpected(error: BaseException) -> int:
    """Print a bug, or an error of Ray, as one line; its traceback goes to a log. Return the exit code."""
    if terminal.log is None:
        descriptor, name = tempfile.mkstemp(prefix="w2s-", suffix=".log")
        os.close(descriptor)
        terminal.capture(Path(name))
    if "ray" in sys.modules:
        from w2s_ray.scheduling.ray_errors import in_our_words, is_of_ray

        if is_of_ray(error):
            known = in_our_words(error)
            terminal.explain(error, str(known))
            return known.exit_code
    lines = str(error).strip().splitlines() or ["no message"]
    terminal.explain(error, f"unexpected {type(error).__name__}: {lines[0][:300]}")
    return 1
