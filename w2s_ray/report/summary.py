"""Make a study's summary from what its store holds."""

from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

from w2s_ray.report.across import across_tasks
from w2s_ray.report.arm_findings import ArmSummary
from w2s_ray.report.arms import TEXT_ARMS, DistinctArm, distinct_arms
from w2s_ray.report.beside import learning_curves, reference_rows
from w2s_ray.report.declared import declared_comparisons
from w2s_ray.report.evidence import Evidence, gather, gather_chains
from w2s_ray.report.findings import Pretrained, Summary, TaskSummary
from w2s_ray.report.judge import Judge
from w2s_ray.report.scores import estimate
from w2s_ray.report.searching import search_summary, steps
from w2s_ray.report.wording import count, value_of
from w2s_ray.science.bootstrap import FEW_GROUPS
from w2s_ray.spec.chain import Chain, Resolution
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore

_MUCH_IS_CUT = 0.01
"""Share of texts that are longer than the context from which on a report says so."""
_CHAIN_DRAWS = 200
"""Enough to tell whether one chain's PGR is defined; many chains may end at once, and their tracker waits."""


def summarise(study: Study, resolution: Resolution, store: ArtifactStore) -> Summary:
    """Return what the store's records say of the study.

    Raises:
        DataError: when a stage was judged on other examples than the task's test set.
        StoreError: when an artifact is damaged.
    """
    return summary_of(study, gather(study, resolution, store))


def summary_of(study: Study, evidence: Evidence) -> Summary:
    """Return what the evidence says of the study."""
    distinct = distinct_arms(evidence.chains, study.ladder)
    judges = {task: Judge(study, evidence, task, distinct) for task in study.tasks}
    arms = [arm for judge in judges.values() for arm in judge.arms()]
    comparisons = [pair for judge in judges.values() for pair in judge.comparisons()]
    students = [arm for arm in arms if arm.is_student and arm.accuracy is not None]
    records = [evidence.records[identity] for identity in evidence.stages if identity in evidence.records]
    return Summary(
        study=study.name,
        seeds=study.seeds,
        ladder=tuple(study.ladder),
        paths=study.paths,
        tasks={name: _task(evidence, judges[name]) for name in study.tasks if name in evidence.tests},
        arms=tuple(arms),
        comparisons=tuple(comparisons),
        declared=declared_comparisons(study, judges),
        across=across_tasks(judges),
        curves=learning_curves(arms, evidence.stages),
        references=reference_rows(study, judges, arms),
        steps=steps(judges, arms),
        search=search_summary(study, evidence.found),
        failures=evidence.failures,
        pretrained=tuple(_pretrained(evidence, distinct)),
        num_students=len(students),
        num_undefined=sum(arm.pgr is None for arm in students),
        num_stages=len(evidence.stages),
        num_stages_finished=len(records),
        min_gap=study.report.min_gap,
        bootstrap_samples=study.report.bootstrap_samples,
        warnings=tuple(_warnings(evidence, arms)),
        versions={
            name: tuple(sorted({record.versions[name] for record in records if name in record.versions}))
            for name in sorted({name for record in records for name in record.versions})
        },
        commits=tuple(sorted({record.commit for record in records if record.commit})),
        finished_at=max((record.finished_at for record in records), default=None),
    )


def chain_figures(study: Study, store: ArtifactStore, chain: Chain) -> dict[str, float]:
    """Return what came of one chain: `<arm>/<level>/accuracy`, `agreement` and, where it is defined, `pgr`.

    The chain stands alone here, with its one seed; the study's report pools the seeds.

    Raises:
        W2SError: as `summarise` does.
    """
    evidence = gather_chains((chain,), store)
    few = study.report.model_copy(update={"bootstrap_samples": _CHAIN_DRAWS})
    study = study.model_copy(update={"report": few})
    figures: dict[str, float] = {}
    for found in Judge(study, evidence, chain.task, distinct_arms(evidence.chains, study.ladder)).arms():
        agreement = found.link.agreement if found.link is not None else None
        measured = {"accuracy": value_of(found.accuracy), "agreement": agreement, "pgr": value_of(found.pgr)}
        figures |= {
            f"{arm}/{found.level}/{name}": value
            for arm in (found.arm, *found.also)
            for name, value in measured.items()
            if value is not None
        }
    return figures


def _task(evidence: Evidence, judge: Judge) -> TaskSummary:
    test = evidence.tests[judge.task]
    return TaskSummary(
        num_test=len(test.ids),
        num_groups=len(np.unique(test.groups_N)),
        class_names=test.class_names,
        kind=test.kind,
        baselines={name: estimate(found) for name, found in judge.scores.baselines().items()},
        strata=judge.scores.strata(),
    )


def _pretrained(evidence: Evidence, arms: Sequence[DistinctArm]) -> Iterator[Pretrained]:
    for arm in arms:
        stages = {seed: identity for seed, identity in arm.identities.items() if identity in evidence.records}
        if arm.arm not in TEXT_ARMS or not stages:
            continue
        found = [evidence.records[identity].metrics for identity in stages.values()]
        # Versions of the package differ in what they record.
        names = dict.fromkeys(name for each in found for name in each)
        metrics = {name: fmean(each[name] for each in found if name in each) for name in names}
        yield Pretrained(task=arm.task, level=arm.level, arm=arm.arm, stages=stages, metrics=metrics)


def _warnings(evidence: Evidence, arms: Sequence[ArmSummary]) -> list[str]:
    """What a reader must know before believing a figure."""
    degenerate = [
        f"{arm.task}: of the labels that {' and '.join(arm.link.supervisors)} gave to {arm.link.split} (seed {seed}), "
        f"{found}; they teach little else, and every student after it learns from them"
        for arm in arms
        if arm.link is not None
        for seed, found in arm.link.degenerate.items()
    ]
    oracles = [
        f"{arm.task}: {arm.level} {arm.label} is an oracle: ground truth chose or taught it, or its supervisor"
        for arm in arms
        if arm.oracle
    ]
    floors = [
        f"{arm.task}: the floor {arm.level} is not surely above chance "
        f"(lower 95 % bound {arm.accuracy.low:.3f}, chance {1 / num_classes:.3f})"
        for arm in arms
        if arm.arm == "floor" and arm.accuracy is not None
        for num_classes in (len(evidence.tests[arm.task].class_names),)
        if evidence.tests[arm.task].kind != "answers" and arm.accuracy.low <= 1 / num_classes
    ]
    told = [*degenerate, *oracles, *_cut(evidence), *_precision(evidence), *_few_groups(evidence), *floors]
    return list(dict.fromkeys(told))


def _few_groups(evidence: Evidence) -> Iterator[str]:
    """Which test sets are too few groups of related examples for their intervals to be believed."""
    for task, test in evidence.tests.items():
        num_groups = len(np.unique(test.groups_N))
        if num_groups < FEW_GROUPS:
            yield (
                f"{task}: its {count(len(test.ids), 'test example')} are {count(num_groups, 'group')} of related ones; "
                f"below {FEW_GROUPS} groups intervals are too narrow, and one group has none"
            )


def _precision(evidence: Evidence) -> Iterator[str]:
    """Whether the stages that asked for bf16 were computed alike."""
    asked = [
        record
        for identity, record in evidence.records.items()
        if evidence.stages[identity].spec.optimisation.precision == "bf16"
    ]
    fell_back = sum(record.metrics.get("fell_back_to_fp32", 0.0) > 0 for record in asked)
    if 0 < fell_back < len(asked):
        yield f"{fell_back} of {len(asked)} stages computed in fp32, on devices without bf16: they differ by rounding"


def _cut(evidence: Evidence) -> Iterator[str]:
    """Which models learned texts that did not fit into their context."""
    shares: dict[tuple[str, str], float] = {}
    for identity, record in evidence.records.items():
        stage = evidence.stages[identity]
        num_learnt = sum(part.split.num_examples * part.labels.kept_share for part in stage.spec.train)
        share = record.metrics.get("cut_examples", 0.0) / num_learnt
        shares[stage.task, stage.level] = max(share, shares.get((stage.task, stage.level), 0.0))
    for (task, level), share in shares.items():
        if share > _MUCH_IS_CUT:
            yield f"{task}: {share:.0%} of the texts that {level} learned are longer than its context; it saw the ends"
