"""Makes a study's summary from its evidence: the arms of each task, all that spans tasks, and the warnings."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median

import numpy as np

from w2s_ray.report.across import Evaluations, across_tasks, declared_comparisons, find_arm, points
from w2s_ray.report.arms import TEXT_ARMS, DistinctArm, distinct_arms
from w2s_ray.report.evaluation import TaskEvaluation, estimate
from w2s_ray.report.evidence import Evidence, gather, gather_chains
from w2s_ray.report.findings import (
    ArmSummary,
    CandidateSummary,
    Estimate,
    LearningCurve,
    Pretrained,
    ReferenceRow,
    SearchSummary,
    Step,
    Summary,
    TaskSummary,
)
from w2s_ray.report.metrics import own_metrics
from w2s_ray.report.text import with_bounds
from w2s_ray.report.verdict import study_verdict, task_verdict
from w2s_ray.science.bootstrap import FEW_GROUPS
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution
from w2s_ray.spec.reporting import Contender, ReferenceSpec
from w2s_ray.spec.search import Candidate, Point, SearchResult
from w2s_ray.spec.stage import Optimisation
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore

_MANY_CUT = 0.01
"""Share of training texts longer than the context above which the report warns."""
_CHAIN_RESAMPLES = 200
"""Enough to decide whether one chain's PGR is defined; many chains may end at once, and their tracker waits."""


def summarise(study: Study, resolution: Resolution, store: ArtifactStore) -> Summary:
    """Return the results of a study.

    Raises:
        DataError: if a stage was evaluated on other examples than the task's test set.
        StoreError: if an artifact is damaged.
    """
    return summary_of(study, gather(study, resolution, store))


def summary_of(study: Study, evidence: Evidence) -> Summary:
    """Return the results of a study whose evidence is read already."""
    distinct = distinct_arms(evidence.chains, study.ladder)
    evaluations = {task: TaskEvaluation(study, evidence, task, distinct) for task in study.tasks}
    by_task = {task: evaluation.summaries() for task, evaluation in evaluations.items()}
    arms = {arm.id: arm for own in by_task.values() for arm in own}
    students = [arm for arm in arms.values() if arm.is_student and arm.accuracy is not None]
    records = [evidence.records[identity] for identity in evidence.stages if identity in evidence.records]
    packages = sorted({name for record in records for name in record.versions})
    verdicts = {task: task_verdict(own, study.report.min_gap) for task, own in by_task.items()}
    across = across_tasks(evaluations)
    return Summary(
        study=study.name,
        own_metrics=own_metrics(),
        verdict=study_verdict(by_task, across) if len(verdicts) > 1 else "".join(verdicts.values()),
        seeds=study.seeds,
        ladder=tuple(study.ladder),
        paths=study.paths,
        tasks={name: _task(evidence, evaluations[name], verdicts[name]) for name in verdicts if name in evidence.tests},
        arms=tuple(arms.values()),
        comparisons=tuple(pair for evaluation in evaluations.values() for pair in evaluation.comparisons()),
        declared=declared_comparisons(study, evaluations),
        across=across,
        curves=_learning_curves(list(arms.values()), evidence.stages),
        references=tuple(
            _reference(study, evaluations, arms, reference, text, point)
            for reference in study.report.references
            for text in reference.contenders
            for point in points(evaluations) or (None,)
        ),
        steps=_steps(evaluations, arms),
        search=_search(study, evidence.search),
        failures=evidence.failures,
        pretrained=tuple(_pretrained(evidence, distinct)),
        num_students=len(students),
        num_undefined=sum(arm.pgr is None for arm in students),
        num_stages=len(evidence.stages),
        num_stages_finished=len(records),
        min_gap=study.report.min_gap,
        bootstrap_samples=study.report.bootstrap_samples,
        warnings=tuple(dict.fromkeys(_warnings(evidence, list(arms.values())))),
        versions={
            name: tuple(sorted({record.versions[name] for record in records if name in record.versions}))
            for name in packages
        },
        commits=tuple(sorted({record.commit for record in records if record.commit})),
        finished_at=max((record.finished_at for record in records), default=None),
    )


def chain_metrics(study: Study, store: ArtifactStore, chain: Chain) -> dict[str, float]:
    """Return the results of one chain with its one seed: `<arm>/<level>/accuracy`, `agreement` and any defined `pgr`.

    Raises:
        W2SError: as `summarise` does.
    """
    evidence = gather_chains((chain,), store)
    report = study.report.model_copy(update={"bootstrap_samples": _CHAIN_RESAMPLES})
    study = study.model_copy(update={"report": report})
    evaluation = TaskEvaluation(study, evidence, chain.task, distinct_arms(evidence.chains, study.ladder))
    metrics: dict[str, float | None] = {}
    for summary in evaluation.summaries():
        for arm in summary.kinds:
            place = f"{arm}/{summary.level}"
            metrics[f"{place}/accuracy"] = summary.accuracy.value if summary.accuracy is not None else None
            metrics[f"{place}/agreement"] = summary.metrics.get("agreement")
            metrics[f"{place}/pgr"] = summary.pgr.value if summary.pgr is not None else None
    return {name: value for name, value in metrics.items() if value is not None}


def _task(evidence: Evidence, evaluation: TaskEvaluation, verdict: str) -> TaskSummary:
    test = evidence.tests[evaluation.task]
    return TaskSummary(
        num_test=len(test.ids),
        num_groups=len(np.unique(test.groups_N)),
        class_names=test.class_names,
        kind=test.kind,
        baselines={name: estimate(sampled) for name, sampled in evaluation.accuracies.baselines().items()},
        strata=evaluation.accuracies.strata(),
        verdict=verdict,
    )


def _pretrained(evidence: Evidence, arms: Sequence[DistinctArm]) -> Iterator[Pretrained]:
    for arm in arms:
        stages = {seed: identity for seed, identity in arm.identities.items() if identity in evidence.records}
        if arm.arm not in TEXT_ARMS or not stages:
            continue
        recorded = [evidence.records[identity].metrics for identity in stages.values()]
        # Versions of the package differ in what they record.
        names = dict.fromkeys(name for metrics in recorded for name in metrics)
        means = {name: fmean(metrics[name] for metrics in recorded if name in metrics) for name in names}
        yield Pretrained(task=arm.task, level=arm.level, arm=arm.arm, stages=stages, metrics=means)


def _learning_curves(arms: Sequence[ArmSummary], stages: Mapping[str, PlannedStage]) -> tuple[LearningCurve, ...]:
    """Return the accuracy of ceilings by number of training examples, where the study has several numbers.

    Ceilings whose optimisation differs, as in a search, form separate curves, named by the keys that differ.
    """
    curves: dict[tuple[str, str, str], dict[Optimisation, dict[int, Estimate]]] = {}
    for arm in arms:
        if "ceiling" in arm.kinds and arm.accuracy is not None:
            spec = stages[arm.stages[arm.seeds[0]]].spec
            size = sum(part.split.num_examples for part in spec.train)
            by_size = curves.setdefault((arm.task, arm.level, arm.setting), {}).setdefault(spec.optimisation, {})
            by_size.setdefault(size, arm.accuracy)
    made = []
    for (task, level, setting), by_optimisation in curves.items():
        keys = [key for key in Optimisation.model_fields if len({getattr(o, key) for o in by_optimisation}) > 1]
        for optimisation, by_size in by_optimisation.items():
            name = ", ".join(filter(None, (setting, *(f"{key} {getattr(optimisation, key)}" for key in keys))))
            if len(by_size) > 1:
                made.append(LearningCurve(task=task, level=level, setting=name, points=tuple(sorted(by_size.items()))))
    return tuple(made)


def _reference(
    study: Study,
    evaluations: Evaluations,
    arms: Mapping[str, ArmSummary],
    reference: ReferenceSpec,
    text: str,
    point: Point | None,
) -> ReferenceRow:
    """Return a published value with the result of the same contender here, on each task where it is finished."""
    contender: Contender = reference.contenders[text]
    own = [find_arm(study, evaluations[task], contender, point) for task in reference.tasks or tuple(evaluations)]
    ours = [summary for arm in own if arm is not None and (summary := arms[arm.id]).accuracy is not None]
    pgrs = [arm.pgr.value for arm in ours if arm.pgr is not None]
    accuracies = [arm.accuracy.value for arm in ours if arm.accuracy is not None]
    by_pgr = reference.figure == "pgr"
    name = contender.among(study.paths).name
    return ReferenceRow(
        source=reference.source,
        setting=reference.setting,
        figure=reference.figure,
        contender=name if point is None else f"{name} · {point.label}",
        theirs=reference.values[text],
        ours=(median(pgrs) if pgrs else None) if by_pgr else (fmean(accuracies) if accuracies else None),
        num_tasks=len(ours),
        num_undefined=len(ours) - len(pgrs) if by_pgr else 0,
        oracle=any(arm.oracle for arm in ours),
        few_seeds=any(arm.few_seeds for arm in ours),
    )


def _steps(evaluations: Evaluations, arms: Mapping[str, ArmSummary]) -> tuple[Step, ...]:
    """Return the chain students of each level that chains of several lengths reach, the shortest chain first.

    They are grouped by method and point; groups of the same students are shown once. All learn from the same examples
    and are evaluated on the same ones: only the model that labels those examples differs.
    """
    steps = []
    for evaluation in evaluations.values():
        for students in _by_length(evaluation):
            shortest = students[0][1]
            for path, student in students:
                difference = evaluation.difference(student, shortest) if student is not shortest else None
                arm = arms[student.id]
                assert arm.accuracy is not None, "only finished students are grouped"
                steps.append(
                    Step(
                        task=arm.task,
                        level=arm.level,
                        label=arm.label,
                        path=path,
                        num_intermediates=len(path) - 2,
                        oracle=arm.oracle,
                        few_seeds=arm.few_seeds,
                        accuracy=arm.accuracy,
                        pgr=arm.pgr,
                        difference=estimate(difference) if difference is not None else None,
                    )
                )
    return tuple(steps)


def _by_length(evaluation: TaskEvaluation) -> list[list[tuple[tuple[str, ...], DistinctArm]]]:
    """Return groups of finished students of one level, floor, method and point, with the levels up to their own."""
    groups: dict[tuple[str, str, str, Point | None], dict[tuple[str, ...], DistinctArm]] = {}
    for arm in evaluation.distinct:
        for place in arm.places if evaluation.seeds(arm) else ():
            if place.arm == "chain":
                path = place.path[: place.path.index(arm.level) + 1]
                groups.setdefault((arm.level, path[0], place.method, place.point), {})[path] = arm
    ordered = [
        sorted(by_path.items(), key=lambda item: (len(item[0]), item[0]))
        for by_path in groups.values()
        if len({len(path) for path in by_path}) > 1
    ]
    return list({tuple(arm.id for _, arm in students): students for students in ordered}.values())


def _search(study: Study, result: SearchResult | None) -> SearchSummary | None:
    """Return the result of the study's search; None where it does not choose or has not finished."""
    search = study.search
    if search is None or search.choose_by is None or result is None:
        return None

    def rank(candidate: Candidate) -> tuple[bool, bool, float]:
        return candidate.status != "done", candidate.score is None, -(candidate.score or 0.0)

    return SearchSummary(
        choose_by=search.choose_by,
        development_tasks=search.development_tasks,
        seeds=search.seeds,
        sampler=search.sampler,
        scheduler=search.scheduler.kind if search.scheduler is not None else None,
        minimise=search.minimise,
        candidates=tuple(
            CandidateSummary(
                settings=candidate.point.values,
                status=candidate.status,
                score=candidate.score,
                cost=candidate.cost,
                error=candidate.error,
                is_winner=candidate.point in result.winners,
            )
            for candidate in sorted(result.candidates, key=rank)
        ),
    )


def _warnings(evidence: Evidence, arms: Sequence[ArmSummary]) -> Iterator[str]:
    """Yield all that a reader must know before trusting the results."""
    for arm in arms:
        for seed, problem in arm.degenerate.items():
            labels = f"the labels that {' and '.join(arm.supervisors)} gave to {arm.trained_on} (seed {seed})"
            yield f"{arm.task}: of {labels}, {problem}; they teach little else, to this student and all after it"
    for arm in arms:
        if arm.oracle:
            yield f"{arm.task}: {arm.level} {arm.label} is an oracle: ground truth chose or taught it or its supervisor"
    yield from _below_untrained(arms)
    yield from _cut_texts(evidence)
    bf16 = [
        record.metrics.get("fell_back_to_fp32", 0.0) > 0
        for identity, record in evidence.records.items()
        if evidence.stages[identity].spec.optimisation.precision == "bf16"
    ]
    if 0 < sum(bf16) < len(bf16):
        yield f"{sum(bf16)} of {len(bf16)} stages computed in fp32, on devices without bf16: they differ by rounding"
    for task, test in evidence.tests.items():
        num_groups = len(np.unique(test.groups_N))
        if num_groups < FEW_GROUPS:
            groups = f"{num_groups} group{'s' if num_groups != 1 else ''}"
            yield (
                f"{task}: its {len(test.ids):,} test examples form {groups} of related examples; below {FEW_GROUPS} "
                "groups intervals are too narrow, and one group has none"
            )
    for arm in arms:
        if arm.arm == "floor" and arm.accuracy is not None and evidence.tests[arm.task].kind != "answers":
            chance = 1 / len(evidence.tests[arm.task].class_names)
            if arm.accuracy.low <= chance:
                bound = f"lower 95 % bound {arm.accuracy.low:.3f}, chance {chance:.3f}"
                yield f"{arm.task}: the floor {arm.level} is not surely above chance ({bound})"


def _below_untrained(arms: Sequence[ArmSummary]) -> Iterator[str]:
    """Yield a warning for each level with students that are reliably below their untrained models."""
    below: dict[tuple[str, str], list[str]] = {}
    for arm in arms:
        if arm.is_below_untrained:
            student = f"{arm.label} ({with_bounds(arm.above_untrained)})"
            below.setdefault((arm.task, arm.level), []).append(student)
    for (task, level), students in below.items():
        yield (
            f"{task}: reliably below the untrained {level}, in accuracy: {', '.join(students)}; a lower learning rate "
            "or fewer epochs keep more of what a model knows"
        )


def _cut_texts(evidence: Evidence) -> Iterator[str]:
    """Yield a warning for each model that learned from texts longer than its context."""
    shares: dict[tuple[str, str], float] = {}
    for identity, record in evidence.records.items():
        stage = evidence.stages[identity]
        num_learnt = sum(part.split.num_examples * part.labels.kept_share for part in stage.spec.train)
        share = record.metrics.get("cut_examples", 0.0) / num_learnt
        shares[stage.task, stage.level] = max(share, shares.get((stage.task, stage.level), 0.0))
    for (task, level), share in shares.items():
        if share > _MANY_CUT:
            yield f"{task}: {share:.0%} of the training texts of {level} are longer than its context; it saw their ends"
