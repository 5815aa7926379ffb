"""`w2s run`: resolve, compile, run with a live view, print the results and the files that were written.

`--smoke` runs the same study so small that every stage takes two steps, in a temporary store.
"""

import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from w2s_ray.cli.inputs import open_for_writing
from w2s_ray.cli.terminal import count_text, terminal
from w2s_ray.errors import Interrupted, StudyError
from w2s_ray.spec.chain import Chain, Resolution, distinct_stages
from w2s_ray.spec.checks import least_examples
from w2s_ray.spec.load import STUDY_NAME, load_study
from w2s_ray.spec.points import count_chains, notices
from w2s_ray.spec.search import SearchSpec
from w2s_ray.spec.stage import Optimisation, Prompt
from w2s_ray.spec.study import MethodSpec, Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.search_result import every_chain

if TYPE_CHECKING:
    from w2s_ray.scheduling.study import StudyOutcome

MAX_CHAINS = 100_000
"""Larger studies need --yes."""
SMOKE_STEPS = 2
_SMOKE_DOCUMENTS_PER_EXAMPLE = 2
"""Documents for one block of text, more than enough."""
_SIZE_KEYS = {"splits", "epochs", "examples_per_step", "every_steps"}
"""Parts of a key that sets how much is trained."""


def run(
    path: Path, store_folder: Path, overrides: Sequence[str], *, address: str | None, retry_failed: bool, yes: bool
) -> int:
    """Run the study at `path`; return the exit code.

    Raises:
        StudyError: when it has more than `MAX_CHAINS` chains and `yes` is not set.
    """
    from w2s_ray.planning.versions import notice_of_change

    study, store = open_for_writing(path, store_folder, overrides, "run")
    num_chains = count_chains(study)
    if num_chains > MAX_CHAINS and not yes:
        raise StudyError(
            f"study {study.name} has {num_chains:,} chains, more than {MAX_CHAINS:,}",
            "pass --yes to run it, list fewer values, or draw a sample (search.sampler: random)",
        )
    resolution = _resolve(study, store)
    change = notice_of_change(study, resolution, store)
    for notice in (*([change] if change else []), *notices(study), *resolution.notices):
        terminal.line(notice)
    outcome = _run_chains(study, resolution, store, address, retry_failed=retry_failed)
    _print_trained(outcome, every_chain(study, resolution, store), store)
    _print_results(study, resolution, store)
    return _exit_code(outcome)


_LOST_RAY = "the signal has ended the Ray processes of this run too; its stages continue from their last checkpoints"


def _resolve(study: Study, store: ArtifactStore) -> Resolution:
    """Prepare data and check models; this can take a minute the first time."""
    from w2s_ray.planning.model_checks import check_models
    from w2s_ray.planning.resolve import resolve_whole

    terminal.line(f"preparing {', '.join(study.tasks)}")
    try:
        resolution = resolve_whole(study, store)
        check_models(study, resolution, store, terminal.line)
        return resolution
    except KeyboardInterrupt:
        raise Interrupted("stopped while data was prepared; nothing was trained", _resume_hint(store)) from None


def _run_chains(
    study: Study, resolution: Resolution, store: ArtifactStore, address: str | None, *, retry_failed: bool = False
) -> "StudyOutcome":
    """Run the chains with a live view; Ctrl-C stops them with a checkpoint."""
    from w2s_ray.api import settings_of
    from w2s_ray.cli.live import Interrupt, InterruptibleView, view_for
    from w2s_ray.scheduling.study import run_study

    def explain() -> None:
        terminal.explain(Interrupted(_LOST_RAY, _resume_hint(store)))

    with view_for(terminal.out) as view, Interrupt(explain) as interrupt:
        try:
            return run_study(
                study,
                resolution=resolution,
                store=store,
                address=address,
                view=InterruptibleView(view, terminal.out, interrupt.event),
                interrupt=interrupt.event,
                settings=replace(settings_of(study, store), notify=_print_and_log),
                retry_failed=retry_failed,
            )
        except Interrupted as stopped:
            raise Interrupted(stopped.message, _resume_hint(store)) from None


def _print_and_log(line: str) -> None:
    terminal.line(line)
    print(line, flush=True)  # standard output is the log


def _print_trained(outcome: "StudyOutcome", chains: Sequence[Chain], store: ArtifactStore) -> None:
    """Print how many stages were trained, shared, and in the store already."""
    from w2s_ray.scheduling.study import is_finished

    stages = distinct_stages(chains)
    finished = {identity for identity, stage in stages.items() if is_finished(stage, store)}
    reused = finished.difference(outcome.trained)
    if len(reused) == len(stages):
        terminal.line(
            f"nothing to train: the store has {count_text(len(stages), 'stage')} of {count_text(len(chains), 'chain')}"
        )
        return
    saved = f"sharing saved {count_text(outcome.num_shared, 'training')}"
    line = f"finished {len(outcome.trained)} of {count_text(len(stages), 'stage')}; {saved}"
    were = "was" if len(reused) == 1 else "were"
    terminal.line(f"{line}; {len(reused)} {were} in the store already" if reused else line)


def _print_results(study: Study, resolution: Resolution, store: ArtifactStore) -> None:
    """Write the report; print its table and the files that were written."""
    from w2s_ray.cli.report import print_summary
    from w2s_ray.report.findings import Summary
    from w2s_ray.report.page import write_report

    page = write_report(study, resolution, store)
    summary = Summary.model_validate_json((page.parent / "results.json").read_bytes())
    print_summary(summary.model_copy(update={"failures": {}}))  # the command ends with them
    terminal.line("written:")
    for file in (*sorted(page.parent.iterdir()), store.study_folder(study.name) / STUDY_NAME):
        terminal.line(f"  {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")


def _exit_code(outcome: "StudyOutcome") -> int:
    """Print the failed chains, grouped by reason, and why a search chose nothing; return 1 if there are any."""
    for error in outcome.errors:
        terminal.error(error)
    if outcome.errors:
        terminal.err.print(f"  log:    {terminal.log}; each stage has its own beside it", markup=False, soft_wrap=True)
    return int(bool(outcome.errors))


def _resume_hint(store: ArtifactStore) -> str:
    """Return the typed command with its program and store spelled out, so that it works in any shell."""
    as_module = [sys.executable, "-m", "w2s_ray"] if sys.argv[0].endswith("__main__.py") else [sys.argv[0]]
    words = [*(["w2s"] if shutil.which("w2s") else as_module), *sys.argv[1:]]
    if not any(word.partition("=")[0] == "--store" for word in words):
        words += ["--store", str(store.root)]
    return f"resume with: {shlex.join(words)}"


def smoke(path: Path, overrides: Sequence[str], *, address: str | None) -> int:
    """Take every stage through two steps; store and log are removed again, but the log stays if something failed."""
    from w2s_ray.planning.resolve import resolve_whole

    study = shrink(load_study(path, overrides))
    with tempfile.TemporaryDirectory(prefix="w2s-smoke-") as folder:
        store = ArtifactStore(folder)
        store.prepare()
        log = Path(tempfile.mkdtemp(prefix="w2s-")) / "smoke.log"
        terminal.capture(log)
        resolution = _shrink_text(resolve_whole(study, store), study)
        outcome = _run_chains(study, resolution, store, address)
        code = _exit_code(outcome)
        if code == 0:
            num_stages = len(distinct_stages(every_chain(study, resolution, store)))
            terminal.line(f"smoke: {len(outcome.trained)} of {num_stages} stages took their few steps")
            shutil.rmtree(log.parent)
        return code


def shrink(study: Study) -> Study:
    """Return the study with two optimizer steps per stage, and test and validation sets of a few examples.

    Seeds, chains, methods, models and execution settings stay, because they are what a smoke run tries. Filters and
    pooled splits make the number of steps smaller or larger.
    """
    max_step = _max_step(study)
    needed = max(least_examples(method) for method in study.methods.values())
    train_examples = max(SMOKE_STEPS * max_step, 2 * needed)  # balancing by class may leave too few neighbours
    own = {"train_examples": None, "S": None, "T": None, "validation_examples": None}
    splits = study.splits.model_copy(update={**own, "train_examples": train_examples, "validation_examples": 8})
    sizes = {**own, "test_examples": 16}
    labelled = [method for method in study.methods.values() if method.objective == "labels"]
    tasks = {
        name: task.model_copy(update=sizes) if any(method.serves(name) for method in labelled) else task
        for name, task in study.tasks.items()
    }
    ladder = {
        name: level.model_copy(update={"optimisation": _shrink_optimisation(level.optimisation, train_examples)})
        for name, level in study.ladder.items()
    }
    methods = {name: _shrink_method(study, method, train_examples) for name, method in study.methods.items()}
    report = study.report.model_copy(update={"bootstrap_samples": 50})
    tracking = study.tracking.model_copy(update={"wandb": "disabled"})
    update = {"tracking": tracking, "tasks": tasks, "ladder": ladder, "methods": methods, "splits": splits}
    return study.model_copy(update={**update, "report": report, "search": _shrink_search(study.search)})


def _shrink_text(resolution: Resolution, study: Study) -> Resolution:
    """Return the resolution with only as many documents as two steps of pretraining need."""
    limit = _max_step(study) * SMOKE_STEPS * _SMOKE_DOCUMENTS_PER_EXAMPLE
    tasks = {
        name: task.model_copy(
            update={"num_documents": min(task.num_documents, limit), "num_held_out": min(task.num_held_out, 16)}
        )
        for name, task in resolution.tasks.items()
    }
    return resolution.model_copy(update={"tasks": tasks})


def _max_step(study: Study) -> int:
    """Return the most examples of one optimizer step of labelled training."""
    return max(
        study.optimisation_of(method, level).examples_per_step
        for method in study.methods.values()
        for level in study.ladder
    )


def _shrink_method(study: Study, method: MethodSpec, train_examples: int) -> MethodSpec:
    generative = {level: _shrink_optimisation(own, train_examples) for level, own in method.generative.items()}
    own = {
        level: own
        if isinstance(method.trainable_of(level), Prompt)  # whose own key can only be its context
        else _shrink_optimisation(study.optimisation_of(method, level), train_examples)
        for level, own in method.optimisation.items()
    }
    return method.model_copy(update={"generative": generative, "optimisation": own})


def _shrink_optimisation(optimisation: Optimisation, train_examples: int) -> Optimisation:
    epochs = SMOKE_STEPS * optimisation.examples_per_step / train_examples
    stopping = optimisation.early_stopping
    if stopping is not None:  # evaluate at every step, but never stop before the last one
        stopping = stopping.model_copy(update={"every_steps": 1, "patience": SMOKE_STEPS})
    return optimisation.model_copy(update={"epochs": epochs, "early_stopping": stopping})


def _shrink_search(search: SearchSpec | None) -> SearchSpec | None:
    """Return the search without the keys that set how much is trained; None if no key remains."""
    if search is None:
        return None
    space = {key: domain for key, domain in search.space.items() if not _SIZE_KEYS & set(key.split("."))}
    return search.model_copy(update={"space": space}) if space else None
