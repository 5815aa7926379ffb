"""The rules for `report:`: its comparisons and references name students that the study has."""

from w2s_ray.errors import StudyError
from w2s_ray.spec.base import check_known
from w2s_ray.spec.reporting import ComparisonSpec, Contender
from w2s_ray.spec.study import Study

_STUDENTS = {"zero_shot": slice(None), "self": slice(1), "truth_chain": slice(2, None)}
"""The levels of a chain on which an arm has students; all but the first for the other arms."""
_RESAMPLES_PER_COMPARISON = 40
"""The smallest p-value of B resamples is 2 / (B + 1); times the number of comparisons it must be at most .05."""


def check_report(study: Study) -> None:
    """Refuse comparisons and references that name something else, or too few resamples to decide them."""
    report, search = study.report, study.search
    names = search.reported(study.tasks) if search is not None else study.tasks
    methods_of = {task: {name for name, method in study.methods.items() if method.serves(task)} for task in names}
    for place, pair in enumerate(report.compare):
        _check_comparison(f"report.compare.{place}", pair, study, methods_of)
    for place, reference in enumerate(report.references):
        for task in reference.tasks or ():
            check_known(task, names, f"report.references.{place}.tasks", "task")
        for contender in reference.contenders.values():
            _check_contender(f"report.references.{place}.values", contender, study)
    if len(set(report.compare)) < len(report.compare):
        raise StudyError("report.compare has a duplicate comparison")
    num_tests = len(report.compare) * (search.num_reported_points if search is not None else 1)
    least = _RESAMPLES_PER_COMPARISON * num_tests - 1
    if report.bootstrap_samples < least:
        raise StudyError(
            f"report.bootstrap_samples = {report.bootstrap_samples} must be at least {least} to find a difference "
            f"among {num_tests} declared comparisons"
        )


def _check_comparison(key: str, pair: ComparisonSpec, study: Study, methods_of: dict[str, set[str]]) -> None:
    for task in pair.tasks or ():
        check_known(task, methods_of, f"{key}.tasks", "task")
    for contender in (pair.first, pair.second):
        _check_contender(key, contender, study)
    shared = [task for task, methods in methods_of.items() if {pair.first.method, pair.second.method} <= methods]
    if not shared:
        raise StudyError(f"{key}: no task has both {pair.first.method} and {pair.second.method}")
    for task in pair.tasks or ():
        if task not in shared:
            raise StudyError(f"{key}.tasks names {task}, but the tasks of both methods are {', '.join(shared)}")
    first, second = (contender.path_among(study.paths)[0] for contender in (pair.first, pair.second))
    if pair.by == "pgr" and first != second:
        raise StudyError(f"{key} compares PGRs with different floors, {first} and {second}", "compare `by: accuracy`")


def _check_contender(key: str, contender: Contender, study: Study) -> None:
    """A contender must name one student of the study."""
    paths = study.paths
    check_known(contender.method, study.methods, key, "method")
    check_known(contender.arm, study.methods[contender.method].arms, f"{key} ({contender.method})", "arm")
    if contender.path is not None and contender.path not in paths:
        check_known("-".join(contender.path), ["-".join(path) for path in paths], key, "chain")
    path = contender.path_among(paths)
    longest = [other for other in paths if len(other) == len(path)]
    if contender.path is None and len(longest) > 1:
        chains = ", ".join(f"({'>'.join(path)})" for path in longest)
        raise StudyError(f"{key} must name the chain of {contender.name}", f"append one of {chains}")
    if contender.level is not None:
        check_known(contender.level, path, key, "level")
    students = path[_STUDENTS.get(contender.arm, slice(1, None))]
    if contender.level_among(paths) not in students:
        raise StudyError(
            f"{key} names {contender.name}, but {contender.arm} has students on {', '.join(students) or 'no level'} in "
            f"the chain {'-'.join(path)}"
        )
