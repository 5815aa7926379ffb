"""The verdict: two sentences that answer whether weak-to-strong generalization took place, made from the figures alone.

A share is recovered *reliably* where the 95 % interval of the PGR is above 0, without correction for several students.
The verdict of a task is about its last student: of the strongest level, by the longest chain and the first method. The
other students are counted; the highest of several is named as such.
"""

from collections.abc import Mapping, Sequence

from w2s_ray.report.findings import AcrossTasks, ArmSummary, Estimate
from w2s_ray.report.text import count, number, with_bounds

REMEDIES = "train longer, add data, or take models that know the task"


def last_student(arms: Sequence[ArmSummary]) -> ArmSummary | None:
    """Return the student that the verdict on a task is about; None where none is finished.

    `arms` are those of one task, from weak to strong. Students that can have a PGR and are no oracles come first.
    """
    students = [arm for arm in arms if arm.is_student and arm.accuracy is not None]
    students = [arm for arm in students if arm.arm != "self"] or students
    students = [arm for arm in students if not arm.oracle] or students
    last = [arm for arm in students if arm.level == students[-1].level]
    return max(last, key=lambda arm: ("chain" in arm.kinds, max(map(len, arm.paths), default=0)), default=None)


def last_across(arms: Sequence[ArmSummary], across: Sequence[AcrossTasks]) -> AcrossTasks | None:
    """Return the last student over all tasks; None where it is finished on fewer than two of them."""
    last = last_student(arms)
    rows = [row for row in across if last is not None and (row.level, row.oracle) == (last.level, last.oracle)]
    return max(rows, key=lambda row: (row.arm == last.arm, row.label == last.label) if last else (), default=None)


def task_verdict(arms: Sequence[ArmSummary], min_gap: float) -> str:
    """Return two sentences on the students of one task; empty for a study without students.

    Args:
        arms: those of the task, from weak to strong.
        min_gap: the lower bound of the gap below which PGR is undefined.
    """
    last = last_student(arms)
    if last is None:
        return "No student is finished, so there is no result yet." if any(arm.is_student for arm in arms) else ""
    others = [arm for arm in arms if arm.is_student and arm.pgr is not None and arm is not last]
    others = [arm for arm in others if not arm.oracle]
    second = [_on_others(last, others), _on_untrained(arms), _on_what_it_rests_on(last, arms)]
    text = "; ".join(part for part in second if part)
    return f"{_on_last(last, others, min_gap)} {text[0].upper()}{text[1:]}."


def study_verdict(tasks: Mapping[str, Sequence[ArmSummary]], across: Sequence[AcrossTasks]) -> str:
    """Return two sentences on the last students of several tasks; empty where no student is finished.

    Args:
        tasks: the arms of each task, from weak to strong.
        across: the students over all tasks.
    """
    students = {task: student for task, arms in tasks.items() if (student := last_student(arms)) is not None}
    if not students:
        return ""
    groups: dict[str, list[str]] = {"recovers part of the gap": [], "does not": [], "has no PGR": []}
    for task, student in students.items():
        group = "has no PGR" if student.pgr is None else "recovers part of the gap" if recovers(student) else "does not"
        groups[group].append(task)
    counts = [f"{what} on {len(names)} ({', '.join(names)})" for what, names in groups.items() if names]
    listed = " and ".join(filter(None, (", ".join(counts[:-1]), counts[-1])))
    text = f"Of {len(students)} tasks, the last student reliably {listed}."
    if not groups["recovers part of the gap"]:
        text = f"The last student reliably recovers part of the gap on none of {len(students)} tasks."
    row = last_across([arm for arms in tasks.values() for arm in arms], across)
    return f"{text} {_pooled(row)}" if row is not None else text


def recovers(arm: ArmSummary) -> bool:
    """Return whether a student reliably recovers part of the gap."""
    return arm.pgr is not None and arm.pgr.low > 0


def _shown(pgr: Estimate) -> str:
    """Format a PGR, with a third digit where a bound would round to 0."""
    return with_bounds(pgr, 3 if 0 < min(abs(pgr.low), abs(pgr.high)) < 0.005 else 2)


def _pooled(row: AcrossTasks) -> str:
    if row.pooled is None:
        return f"The PGR of {row.level}, pooled over the tasks, is undefined: {row.pooled_undefined}."
    return f"The PGR of {row.level}, pooled over {row.num_pooled} tasks, is {_shown(row.pooled)}."


def _on_last(last: ArmSummary, others: Sequence[ArmSummary], min_gap: float) -> str:
    """Return the sentence on the last student."""
    name = f"{last.level} student ({last.label})"
    gap, pgr = last.gap, last.pgr
    if gap is None or last.floor is None or last.ceiling is None:
        return f"The {name} has no PGR: {last.pgr_undefined}."
    if pgr is None:
        if gap.low > min_gap:
            return f"The {name} has no PGR: {last.pgr_undefined}."
        size = f"ceiling − floor = {with_bounds(gap)}"
        if gap.low <= 0:
            place = "below" if gap.high < 0 else "not reliably above"
            text = f"The ceiling of {last.level} is {place} the floor ({size}), so there is nothing to recover"
            return f"{text}: {REMEDIES}."
        return (
            f"The gap between the floor and the ceiling of {last.level} is too small to measure a PGR ({size}, and its "
            f"lower bound has to be above {number(min_gap)}): {REMEDIES}."
        )
    ends = f"the gap of {number(gap.value)} between floor ({number(last.floor.value)}) and ceiling"
    ends += f" ({number(last.ceiling.value)})"
    if recovers(last):
        return f"The {name} recovers {_shown(pgr)} of {ends}."
    if any(recovers(arm) for arm in others):
        return f"The {name} does not reliably recover any of {ends}: its PGR is {_shown(pgr)}."
    values = [pgr.value, *(arm.pgr.value for arm in others if arm.pgr is not None)]
    verb = "reliably recovers" if max(values) > 0 else "recovers"
    return f"No student {verb} any of {ends}: the PGR of the {name} is {_shown(pgr)}."


def _on_others(last: ArmSummary, others: Sequence[ArmSummary]) -> str:
    """Return how the other students with a PGR compare; empty where there is none, and where none has a PGR."""
    pgrs = {f"{arm.level} {arm.label}": arm.pgr for arm in others if arm.pgr is not None and recovers(arm)}
    too = " too" if recovers(last) else ""
    if pgrs:
        name, pgr = max(pgrs.items(), key=lambda item: item[1].value)
        shown = f"{name}, {_shown(pgr)}"
        if len(others) == 1:
            return f"the other student does{too} ({shown})"
        does, best = ("does", "") if len(pgrs) == 1 else ("do", "the best, and so optimistic: ")
        return f"{len(pgrs)} of {len(others)} other students {does}{too} ({best}{shown})"
    if recovers(last):
        return {0: "", 1: "the other student does not"}.get(len(others), f"none of {len(others)} other students does")
    measured = [arm.pgr for arm in (last, *others) if arm.pgr is not None]
    num_below = sum(pgr.high < 0 for pgr in measured)
    if len(measured) <= 1:
        return "it is reliably below the floor" if num_below else ""
    end = "ends" if num_below == 1 else "end"
    return f"{num_below} of {len(measured)} students {end} reliably below the floor"


def _on_untrained(arms: Sequence[ArmSummary]) -> str:
    """Return how many students are below their untrained models; empty where none is."""
    num_below = sum(arm.is_below_untrained for arm in arms)
    if not num_below:
        return ""
    return f"{count(num_below, 'student')} {'is' if num_below == 1 else 'are'} reliably below the untrained model"


def _on_what_it_rests_on(last: ArmSummary, arms: Sequence[ArmSummary]) -> str:
    """Return on how many seeds the verdict rests, and whether it may still change."""
    parts = []
    if last.oracle:
        parts.append("it is an oracle, which used ground truth")
    if last.num_seeds == 1:
        parts.append("with one seed the intervals do not cover other seeds")
    else:
        parts.append(f"the figures are means over {last.num_seeds} seeds")
    num_open = sum(arm.accuracy is None for arm in arms)
    if num_open:
        parts.append(f"{num_open} of {len(arms)} arms are not finished")
    return "; ".join(parts)
