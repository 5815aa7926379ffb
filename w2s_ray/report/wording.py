"""How figures and findings are said, the same in the terminal, in figures and on the page."""

from collections.abc import Iterable, Sequence

from w2s_ray.report.arm_findings import ArmSummary, Estimate
from w2s_ray.report.findings import (
    AcrossTasks,
    CandidateSummary,
    Comparison,
    DeclaredComparison,
    ReferenceRow,
    SearchSummary,
    Step,
    Summary,
    TaskSummary,
)
from w2s_ray.science.recovery import FEW_SEEDS

ABSENT = "–"
SEED_CONDITIONAL = "†"
"""Marks what rests on few seeds."""
BASELINES = {"majority": "the majority alone", "length": "text length alone"}
"""How baselines are called."""
_CANDIDATES_SHOWN = 10
_FEWEST_DIGITS_P = 0.001


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure with a real minus sign and no leading zero before the point; a dash where there is none."""
    if value is None:
        return ABSENT
    text = f"{abs(value):.{digits}f}"
    sign = "−" if value < 0 and float(text) else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def bounds(estimate: Estimate | None, digits: int = 3) -> str:
    """Return the 95 % interval in brackets."""
    return f"[{number(estimate.low, digits)}, {number(estimate.high, digits)}]" if estimate is not None else ""


def with_bounds(estimate: Estimate | None, digits: int = 3) -> str:
    """Return a figure and its interval."""
    return f"{number(estimate.value, digits)} {bounds(estimate, digits)}" if estimate is not None else ABSENT


def value_of(estimate: Estimate | None) -> float | None:
    """Return the estimate itself, without its interval."""
    return estimate.value if estimate is not None else None


def whole(value: float | None) -> str:
    """Return a whole number in groups of three digits."""
    return f"{value:,.0f}" if value is not None else ABSENT


def count(num: int, noun: str) -> str:
    """Return a number of things with their name."""
    return f"{whole(num)} {noun}{'' if num == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """Return a time span with its unit."""
    if seconds is None:
        return ABSENT
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def marked_label(arm: ArmSummary | AcrossTasks | Step) -> str:
    """Return the arm's label, with its oracle mark."""
    return arm.label + oracle_mark(arm)


def oracle_mark(row: ArmSummary | AcrossTasks | Step | ReferenceRow | DeclaredComparison) -> str:
    """Return the mark of a figure in which ground truth has a part; nothing where it has none."""
    return " (oracle)" if row.oracle else ""


def seed_mark(row: ArmSummary | AcrossTasks | Step | ReferenceRow) -> str:
    """Return the mark of a figure that rests on few seeds; nothing where it does not."""
    finished = not isinstance(row, ArmSummary) or row.accuracy is not None
    return SEED_CONDITIONAL if finished and row.seed_conditional else ""


def scope(summary: Summary) -> str:
    """Say on what the figures rest, in one line."""
    tests = ", ".join(f"{name} {_size(task)}" for name, task in summary.tasks.items())
    seeds = f"{len(summary.seeds)} seed{'s' if len(summary.seeds) > 1 else ''}"
    done = f"{summary.num_stages_finished} of {summary.num_stages} stages finished"
    draws = f"95 % intervals from {whole(summary.bootstrap_samples)} paired bootstrap draws"
    return f"test examples: {tests or 'none yet'}; {seeds}; {done}; {draws}"


def search_line(search: SearchSummary) -> str:
    """Say how the winners were chosen, and out of how many."""
    counts = {
        status: sum(one.status == status for one in search.candidates) for status in ("done", "stopped", "failed")
    }
    came = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    judged = {
        "agreement": "agreement with their weak validation labels",
        "development_tasks": f"ground truth on {', '.join(search.development_tasks)}",
        "oracle": "ground truth on their own validation examples (oracle)",
    }[search.choose_by]
    seeds = f"seed{'s' if len(search.seeds) > 1 else ''} {', '.join(map(str, search.seeds))}"
    winners = sum(one.is_winner for one in search.candidates)
    picked = f"picked {winners} of {len(search.candidates)} candidates ({came})"
    return f"{picked} by {judged}, {seeds}; above they run on fresh seeds"


def shown_candidates(search: SearchSummary) -> list[CandidateSummary]:
    """Return the best candidates, and every one that failed."""
    return [one for place, one in enumerate(search.candidates) if place < _CANDIDATES_SHOWN or one.status == "failed"]


def candidate_status(candidate: CandidateSummary) -> str:
    """Say how far a candidate came, and why it failed if it did."""
    if candidate.error is None:
        return candidate.status
    return f"{candidate.status}: {candidate.error.strip().splitlines()[-1]}"


def failure_lines(summary: Summary) -> list[str]:
    """Say of each chain that failed why it did."""
    return [f"failed: {chain}: {error}" for chain, error in summary.failures.items()]


def setting(value: object) -> str:
    """Return a searched value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def undefined_line(summary: Summary) -> str | None:
    """Say how many students have no PGR; None where all have one."""
    if not summary.num_undefined:
        return None
    return f"PGR is undefined for {summary.num_undefined} of {summary.num_students} students"


def reasons(summary: Summary) -> list[str]:
    """Say of each student without a PGR why it has none."""
    many = len(summary.tasks) > 1
    return [
        f"{arm.task + ' ' if many else ''}{arm.level} {arm.label}: {arm.pgr_undefined}"
        for arm in summary.arms
        if arm.accuracy is not None and arm.pgr_undefined is not None
    ]


def seeds_line(summary: Summary) -> str | None:
    """Say that the intervals hold for few seeds only; None where there are enough."""
    finished = [arm for arm in summary.arms if arm.accuracy is not None]
    if not any(arm.seed_conditional for arm in finished):
        return None
    fewest, most = (found(arm.num_seeds for arm in finished) for found in (min, max))
    seeds = count(fewest, "seed") if fewest == most else f"as few as {count(fewest, 'seed')}"
    return f"{SEED_CONDITIONAL} seed-conditional: with {seeds} the intervals say little about other seeds"


def detectable_lines(summary: Summary) -> list[str]:
    """Say for each level which difference in PGR between two arms this study could find."""
    found: dict[tuple[str, str], list[float]] = {}
    for pair in summary.comparisons:
        found.setdefault((pair.task, pair.level), []).append(pair.minimum_detectable)
    many = len(summary.tasks) > 1
    return [
        f"{task + ' ' if many else ''}{level}: minimum detectable difference in PGR {_range(values)}"
        for (task, level), values in found.items()
    ]


def contest(row: DeclaredComparison) -> str:
    """Say which difference was tested, and how many of its tasks it rests on where some lack."""
    parts = [f"{row.first} − {row.second}", row.point or "", ", ".join(row.asked)]
    if len(row.tasks) < row.num_tasks and row.num_tasks > 1:
        parts.append(f"{len(row.tasks)} of {row.num_tasks} tasks")
    return " · ".join(part for part in parts if part) + oracle_mark(row)


def num_seeds(row: DeclaredComparison) -> str:
    """Say on how many seeds a tested difference rests, on the task with the fewest; few are marked."""
    fewest = min(map(len, row.seeds.values()), default=0)
    return f"{fewest}{SEED_CONDITIONAL if fewest < FEW_SEEDS else ''}"


def p_text(p_value: float | None) -> str:
    """Return a p-value; very small ones as a bound."""
    if p_value is None:
        return ABSENT
    return "< .001" if p_value < _FEWEST_DIGITS_P else number(p_value)


def undecided_lines(summary: Summary) -> list[str]:
    """Say of each declared comparison without a p-value why it has none."""
    return [f"{contest(row)}: {row.undecided}" for row in summary.declared if row.undecided is not None]


def undefined_share(row: AcrossTasks) -> str:
    """Say on how many tasks a student has no PGR."""
    return f"{row.num_undefined} of {len(row.pgrs)}"


def pooled_share(row: AcrossTasks) -> str:
    """Say how many tasks a pooled PGR covers; nothing where it covers all."""
    return "" if row.num_pooled == len(row.pgrs) else f"{row.num_pooled} of {len(row.pgrs)} tasks"


def theirs(row: ReferenceRow) -> str:
    """Return a result of the literature as its source gives it."""
    return row.theirs if isinstance(row.theirs, str) else number(row.theirs, 2)


def ours(row: ReferenceRow) -> str:
    """Return what was found here, with the number of tasks where there are several."""
    if not row.num_tasks:
        return "not finished"
    value = number(row.ours, 2) if row.ours is not None else "undefined"
    value += seed_mark(row) + oracle_mark(row)
    undefined = f", {row.num_undefined} undefined" if row.num_undefined else ""
    return f"{value} ({row.num_tasks} tasks{undefined})" if row.num_tasks > 1 else value


def clear_difference(pair: Comparison) -> bool:
    """Whether the interval of a difference leaves zero out."""
    return pair.difference.low > 0 or pair.difference.high < 0


def by_level(arms: Iterable[ArmSummary]) -> list[tuple[str, list[ArmSummary]]]:
    """Return arms level by level, in their order."""
    groups: dict[str, list[ArmSummary]] = {}
    for arm in arms:
        groups.setdefault(arm.level, []).append(arm)
    return list(groups.items())


def _size(task: TaskSummary) -> str:
    """How many test examples there are, and how many groups where examples are related."""
    size = whole(task.num_test)
    return size if task.num_groups == task.num_test else f"{size} in {count(task.num_groups, 'group')}"


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values), 2), number(max(values), 2)
    return low if low == high else f"{low} to {high}, by pair of arms"
