"""What stands beside the study's headline: the literature's results, and its ceilings by number of examples."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from w2s_ray.report.arm_findings import ArmSummary, Estimate
from w2s_ray.report.declared import find, points
from w2s_ray.report.findings import LearningCurve, ReferenceRow
from w2s_ray.report.judge import Judge
from w2s_ray.report.means import mean
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.reporting import Contender, ReferenceSpec
from w2s_ray.spec.search import Point
from w2s_ray.spec.stage import Optimisation
from w2s_ray.spec.study import Study


def reference_rows(study: Study, judges: Mapping[str, Judge], arms: Sequence[ArmSummary]) -> tuple[ReferenceRow, ...]:
    """Return every reference with what this study found for the same contender; judges are by task."""
    by_name = {(arm.task, arm.level, arm.label): arm for arm in arms}
    return tuple(
        _row(reference, text, one.among(study.paths).name, _ours(study, judges, by_name, reference, one, point), point)
        for reference in study.report.references
        for text, one in reference.contenders.items()
        for point in points(judges) or (None,)
    )


def learning_curves(arms: Sequence[ArmSummary], stages: Mapping[str, PlannedStage]) -> tuple[LearningCurve, ...]:
    """Return the accuracy of ceilings by number of training examples, where the study has them at several.

    Ceilings that a search optimised otherwise are other curves, named by what sets their optimisation apart.
    """
    curves: dict[tuple[str, str, str], dict[Optimisation, dict[int, Estimate]]] = {}
    for arm in arms:
        if "ceiling" in arm.kinds and arm.accuracy is not None:
            spec = stages[arm.stages[arm.seeds[0]]].spec
            size = sum(part.split.num_examples for part in spec.train)
            alike = curves.setdefault((arm.task, arm.level, arm.setting), {}).setdefault(spec.optimisation, {})
            alike.setdefault(size, arm.accuracy)
    return tuple(
        LearningCurve(
            task=task,
            level=level,
            setting=", ".join(filter(None, (setting, *apart))),
            points=tuple(sorted(found.items())),
        )
        for (task, level, setting), by_optimisation in curves.items()
        for apart, found in zip(_apart(tuple(by_optimisation)), by_optimisation.values(), strict=True)
        if len(found) > 1
    )


def _apart(every: Sequence[Optimisation]) -> Iterator[list[str]]:
    """What sets each optimisation apart from the others, for people."""
    keys = [key for key in Optimisation.model_fields if len({getattr(each, key) for each in every}) > 1]
    for each in every:
        yield [f"{key} {getattr(each, key)}" for key in keys]


def _ours(
    study: Study,
    judges: Mapping[str, Judge],
    arms: Mapping[tuple[str, str, str], ArmSummary],
    reference: ReferenceSpec,
    one: Contender,
    point: Point | None,
) -> Iterator[ArmSummary]:
    """What the contender is here, on each task where it was judged."""
    for task in reference.tasks or tuple(judges):
        arm = find(study, judges[task], one, point)
        if arm is not None and (found := arms[task, arm.level, arm.label]).accuracy is not None:
            yield found


def _row(
    reference: ReferenceSpec, text: str, name: str, ours: Iterator[ArmSummary], point: Point | None
) -> ReferenceRow:
    found = list(ours)
    pgrs = [arm.pgr.value for arm in found if arm.pgr is not None]
    accuracy = mean(arm.accuracy.value for arm in found if arm.accuracy is not None)
    by_pgr = reference.figure == "pgr"
    return ReferenceRow(
        source=reference.source,
        setting=reference.setting,
        figure=reference.figure,
        contender=name if point is None else f"{name} · {point.label}",
        theirs=reference.values[text],
        ours=(median(pgrs) if pgrs else None) if by_pgr else accuracy,
        num_tasks=len(found),
        num_undefined=len(found) - len(pgrs) if by_pgr else 0,
        oracle=any(arm.oracle for arm in found),
        seed_conditional=any(arm.seed_conditional for arm in found),
    )
