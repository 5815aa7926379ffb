"""Formatted numbers and sentences, the same in the terminal, in figures and on the page."""

from w2s_ray.report.findings import (
    AcrossTasks,
    ArmSummary,
    DeclaredComparison,
    Estimate,
    ReferenceRow,
    SearchSummary,
    Step,
    Summary,
)
from w2s_ray.science.estimates import FEW_SEEDS

ABSENT = "–"
FEW_SEEDS_MARK = "†"
"""Marks results over few seeds."""
BELOW_UNTRAINED = "‡"
"""Marks students that are reliably below their untrained models."""
BASELINES = {"majority": "the majority alone", "length": "text length alone"}
_SMALLEST_P = 0.001


def number(value: float | None, digits: int = 3) -> str:
    """Format with a real minus sign and without a zero before the point; a dash for None."""
    if value is None:
        return ABSENT
    text = f"{abs(value):.{digits}f}"
    sign = "−" if value < 0 and float(text) else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def bounds(estimate: Estimate | None, digits: int = 3) -> str:
    """Format the 95 % interval, in brackets."""
    return f"[{number(estimate.low, digits)}, {number(estimate.high, digits)}]" if estimate is not None else ""


def with_bounds(estimate: Estimate | None, digits: int = 3) -> str:
    """Format a value with its interval."""
    return f"{number(estimate.value, digits)} {bounds(estimate, digits)}" if estimate is not None else ABSENT


def value_of(estimate: Estimate | None) -> float | None:
    """Return the value without its interval."""
    return estimate.value if estimate is not None else None


def whole(value: float | None) -> str:
    """Format as a whole number in groups of three digits."""
    return f"{value:,.0f}" if value is not None else ABSENT


def count(num: int, noun: str) -> str:
    """Format a number of things."""
    return f"{whole(num)} {noun}{'' if num == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """Format a time span in seconds, minutes or hours."""
    if seconds is None:
        return ABSENT
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def p_text(p_value: float | None) -> str:
    """Format a p-value; a bound for a very small one."""
    return "< .001" if p_value is not None and p_value < _SMALLEST_P else number(p_value)


def oracle_mark(row: ArmSummary | AcrossTasks | Step | ReferenceRow | DeclaredComparison) -> str:
    """Return the mark of a result that uses ground truth; empty for others."""
    return " (oracle)" if row.oracle else ""


def seed_mark(row: ArmSummary | AcrossTasks | Step | ReferenceRow) -> str:
    """Return the mark of a result over few seeds; empty for others."""
    is_finished = not isinstance(row, ArmSummary) or row.accuracy is not None
    return FEW_SEEDS_MARK if is_finished and row.few_seeds else ""


def untrained_mark(row: ArmSummary | AcrossTasks | Step) -> str:
    """Return the mark of a student that is reliably below its untrained model; empty for others."""
    return BELOW_UNTRAINED if isinstance(row, ArmSummary) and row.is_below_untrained else ""


def scope(summary: Summary) -> str:
    """Describe what the results are computed from, in one line."""
    sizes = []
    for name, task in summary.tasks.items():
        groups = f" in {count(task.num_groups, 'group')}" if task.num_groups != task.num_test else ""
        sizes.append(f"{name} {whole(task.num_test)}{groups}")
    stages = f"{summary.num_stages_finished} of {summary.num_stages} stages finished"
    resamples = f"95 % intervals from {whole(summary.bootstrap_samples)} draws"
    return (
        f"test examples: {', '.join(sizes) or 'none yet'}; {count(len(summary.seeds), 'seed')}; {stages}; {resamples}"
    )


def notes(summary: Summary) -> list[str]:
    """Return what a reader must know of failures, undefined PGRs and undecided tests, one sentence each."""
    lines = [f"failed: {chain}: {error}" for chain, error in summary.failures.items()]
    if summary.num_undefined:
        lines.append(f"PGR is undefined for {summary.num_undefined} of {summary.num_students} students")
    lines += [f"not decided: {contest(row)}: {row.undecided}" for row in summary.declared if row.undecided is not None]
    return lines


def undefined_reasons(summary: Summary) -> list[str]:
    """Return why students have no PGR: a line for all of one level with the same reason."""
    labels: dict[tuple[str, str], list[str]] = {}
    for arm in summary.arms:
        if arm.accuracy is not None and arm.pgr_undefined is not None:
            level = f"{arm.task} {arm.level}" if len(summary.tasks) > 1 else arm.level
            labels.setdefault((level, arm.pgr_undefined), []).append(arm.label)
    return [f"{level} {', '.join(own)}: {reason}" for (level, reason), own in labels.items()]


def seeds_line(summary: Summary) -> str | None:
    """Explain the mark of intervals that cover few seeds; None where there are enough."""
    num_seeds = [arm.num_seeds for arm in summary.arms if arm.accuracy is not None]
    if not any(arm.few_seeds for arm in summary.arms if arm.accuracy is not None):
        return None
    fewest = count(min(num_seeds), "seed")
    seeds = fewest if min(num_seeds) == max(num_seeds) else f"as few as {fewest}"
    if max(num_seeds) < 2:
        return f"with {seeds} the intervals cover other test examples, and not other seeds"
    return f"with {seeds} the intervals are Student's, and assume that results over seeds are normal"


def detectable_lines(summary: Summary) -> list[str]:
    """Return, for each level, the difference in PGR that this study could detect between two arms."""
    by_level: dict[tuple[str, str], list[float]] = {}
    for pair in summary.comparisons:
        by_level.setdefault((pair.task, pair.level), []).append(pair.minimum_detectable)
    lines = []
    for (task, level), values in by_level.items():
        low, high = number(min(values), 2), number(max(values), 2)
        difference = low if low == high else f"{low} to {high}, by pair of arms"
        name = f"{task} {level}" if len(summary.tasks) > 1 else level
        lines.append(f"{name}: minimum detectable difference in PGR {difference}")
    return lines


def contest(row: DeclaredComparison) -> str:
    """Name a declared comparison, with its point, its tasks, and how many of them are finished if not all."""
    parts = [f"{row.first} − {row.second}", row.point or "", ", ".join(row.asked)]
    if len(row.tasks) < row.num_tasks and row.num_tasks > 1:
        parts.append(f"{len(row.tasks)} of {row.num_tasks} tasks")
    return " · ".join(part for part in parts if part) + oracle_mark(row)


def num_seeds(row: DeclaredComparison) -> str:
    """Format the number of seeds of a tested difference, on the task with the fewest; few are marked."""
    fewest = min(map(len, row.seeds.values()), default=0)
    return f"{fewest}{FEW_SEEDS_MARK if fewest <= FEW_SEEDS else ''}"


def undefined_share(row: AcrossTasks) -> str:
    """Format on how many tasks a student has no PGR."""
    return f"{row.num_undefined} of {len(row.pgrs)}"


def pooled_share(row: AcrossTasks) -> str:
    """Format how many tasks a pooled PGR covers; empty where it covers all."""
    return "" if row.num_pooled == len(row.pgrs) else f"{row.num_pooled} of {len(row.pgrs)} tasks"


def ours(row: ReferenceRow) -> str:
    """Format this study's result for a reference, with the number of tasks where there are several."""
    if not row.num_tasks:
        return "not finished"
    value = number(row.ours, 2) if row.ours is not None else "undefined"
    value += seed_mark(row) + oracle_mark(row)
    undefined = f", {row.num_undefined} undefined" if row.num_undefined else ""
    return f"{value} ({row.num_tasks} tasks{undefined})" if row.num_tasks > 1 else value


def search_line(search: SearchSummary) -> str:
    """Describe how the winners were chosen, and among how many candidates."""
    statuses = [candidate.status for candidate in search.candidates]
    counts = [f"{statuses.count(name)} {name}" for name in ("done", "stopped", "failed") if name in statuses]
    criterion = {
        "agreement": "agreement with their weak validation labels",
        "development_tasks": f"ground truth on {', '.join(search.development_tasks)}",
        "oracle": "ground truth on their own validation examples (oracle)",
    }[search.choose_by]
    seeds = f"seed{'s' if len(search.seeds) > 1 else ''} {', '.join(map(str, search.seeds))}"
    num_winners = sum(candidate.is_winner for candidate in search.candidates)
    picked = f"picked {num_winners} of {len(statuses)} candidates ({', '.join(counts)})"
    return f"{picked} by {criterion}, {seeds}; the results above are on other seeds"
