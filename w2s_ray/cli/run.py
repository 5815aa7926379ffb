"""`w2s run`: resolve, compile, run with a live view, print the results and the files that were written."""

import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from w2s_ray.cli.amounts import count_text
from w2s_ray.cli.opening import open_for_writing
from w2s_ray.cli.smoke import shrink, shrink_text
from w2s_ray.cli.terminal import terminal
from w2s_ray.errors import Interrupted, StudyError
from w2s_ray.spec.chain import Chain, Resolution, distinct_stages
from w2s_ray.spec.load import STUDY_NAME, load_study
from w2s_ray.spec.points import count_chains, notices
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.search_result import every_chain

if TYPE_CHECKING:
    from w2s_ray.scheduling.study import StudyOutcome


MOST_CHAINS = 100_000
"""More than this are only begun by those who say so."""


def run(
    path: Path, store_folder: Path, overrides: Sequence[str], *, address: str | None, retry_failed: bool, yes: bool
) -> int:
    """Run the study at `path`; return the exit code."""
    study, store = open_for_writing(path, store_folder, overrides, "run")
    check_number(study, yes=yes)
    resolution = _resolve(study, store)
    for line in (*notices(study), *resolution.notices):
        terminal.out.print(line, markup=False, soft_wrap=True)
    outcome = _go(study, resolution, store, address, retry_failed=retry_failed)
    _say_what_was_trained(outcome, every_chain(study, resolution, store), store)
    _report(study, resolution, store)
    return _exit_code(outcome)


def check_number(study: Study, *, yes: bool) -> None:
    """Refuse a study of very many chains, unless told that they are meant.

    Raises:
        StudyError: naming the number.
    """
    num_chains = count_chains(study)
    if num_chains > MOST_CHAINS and not yes:
        raise StudyError(
            f"study {study.name} comes to {num_chains:,} chains",
            f"more than {MOST_CHAINS:,} are begun only with --yes",
            "list fewer values, draw a sample (search.sampler: random), or say --yes",
        )


def _resolve(study: Study, store: ArtifactStore) -> Resolution:
    """Prepare data and models, which can take a minute the first time."""
    from w2s_ray.planning.resolve import resolve_whole

    terminal.out.print(f"preparing {', '.join(study.tasks)}", markup=False, soft_wrap=True)
    try:
        return resolve_whole(study, store)
    except KeyboardInterrupt:
        value, rule = "stopped while the data was being prepared", "nothing was trained yet"
        raise Interrupted(value, rule, f"go on with: {_command(store)}") from None


def _go(
    study: Study, resolution: Resolution, store: ArtifactStore, address: str | None, *, retry_failed: bool = False
) -> "StudyOutcome":
    """Run the chains under the live view, and let Ctrl-C stop them in order."""
    from w2s_ray.api import settings_of
    from w2s_ray.cli.interrupt import Announcing, Interrupt
    from w2s_ray.cli.live import view_for
    from w2s_ray.scheduling.study import run_study

    with view_for(terminal.out) as view, Interrupt() as interrupt:
        try:
            return run_study(
                study,
                resolution=resolution,
                store=store,
                address=address,
                view=Announcing(view, terminal.out, interrupt.event),
                interrupt=interrupt.event,
                settings=replace(settings_of(study, store), say=_say),
                retry_failed=retry_failed,
            )
        except Interrupted as stopped:
            raise Interrupted(stopped.value, stopped.rule, f"go on with: {_command(store)}") from None


def _say(line: str) -> None:
    """Put a line on the terminal and into the log."""
    terminal.out.print(line, markup=False, soft_wrap=True)
    print(line, flush=True)


def _report(study: Study, resolution: Resolution, store: ArtifactStore) -> None:
    """Write the report and print its table."""
    from w2s_ray.cli.report import print_summary
    from w2s_ray.report.findings import Summary
    from w2s_ray.report.page import write_report

    page = write_report(study, resolution, store)
    print_summary(Summary.model_validate_json((page.parent / "results.json").read_bytes()))
    terminal.out.print("written:")
    for file in (*sorted(page.parent.iterdir()), store.study_folder(study.name) / STUDY_NAME):
        shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        terminal.out.print(f"  {shown}", markup=False, soft_wrap=True)


def _say_what_was_trained(outcome: "StudyOutcome", chains: Sequence[Chain], store: ArtifactStore) -> None:
    from w2s_ray.scheduling.study import is_finished

    stages = distinct_stages(chains)
    finished = {identity for identity, stage in stages.items() if is_finished(stage, store)}
    there = finished.difference(outcome.trained)
    if len(there) == len(stages):
        line = f"nothing to train: all {len(stages)} stages of {count_text(len(chains), 'chain')} are in the store"
    else:
        line = f"finished {len(outcome.trained)} of {len(stages)} stages; sharing saved {outcome.num_shared} trainings"
        line += f"; {len(there)} were there already" if there else ""
    terminal.out.print(line, markup=False, soft_wrap=True)


def _exit_code(outcome: "StudyOutcome") -> int:
    """Say which chains failed and why, each reason once, and why a search chose nothing."""
    reasons: dict[str, list[str]] = {}
    for chain, reason in outcome.failed.items():
        reasons.setdefault(reason, []).append(chain)
    for reason, names in reasons.items():
        terminal.err.print(f"failed: {', '.join(names)}\n{reason}", style="red", markup=False, soft_wrap=True)
    nothing = outcome.found.why_nothing_is_chosen if outcome.found is not None else None
    if nothing is not None:
        terminal.err.print(nothing, style="red", markup=False, soft_wrap=True)
    if reasons or nothing is not None:
        terminal.err.print(f"  log:    {terminal.log}, and each stage's beside it", markup=False, soft_wrap=True)
    return int(bool(reasons) or nothing is not None)


def smoke(path: Path, overrides: Sequence[str], *, address: str | None) -> int:
    """Take every stage through two steps; the store goes again, and so does the log unless something failed."""
    from w2s_ray.planning.resolve import resolve_whole

    study = shrink(load_study(path, overrides))
    with tempfile.TemporaryDirectory(prefix="w2s-smoke-") as folder:
        store = ArtifactStore(folder)
        store.prepare()
        log = Path(tempfile.mkdtemp(prefix="w2s-")) / "smoke.log"
        terminal.capture(log)
        resolution = shrink_text(resolve_whole(study, store), study)
        outcome = _go(study, resolution, store, address)
        code = _exit_code(outcome)
        if code == 0:
            num_stages = len(distinct_stages(every_chain(study, resolution, store)))
            terminal.out.print(f"smoke: {len(outcome.trained)} of {num_stages} stages took their few steps")
            shutil.rmtree(log.parent)
        return code


def _command(store: ArtifactStore) -> str:
    """The command line that was typed, good for another shell too: with its program and store spelt out."""
    as_module = [sys.executable, "-m", "w2s_ray"] if sys.argv[0].endswith("__main__.py") else [sys.argv[0]]
    words = [*(["w2s"] if shutil.which("w2s") else as_module), *sys.argv[1:]]
    named = any(word.partition("=")[0] == "--store" for word in words)
    return shlex.join(words if named else [*words, "--store", str(store.root)])
