"""The legend: one line for each column, arm and mark that a view of the results shows."""

from collections.abc import Sequence

from w2s_ray.report.findings import Summary
from w2s_ray.report.tables import TableView
from w2s_ray.report.text import BELOW_UNTRAINED, FEW_SEEDS_MARK, seeds_line
from w2s_ray.spec.study import Arm

ARM_MEANINGS: dict[Arm, str] = {
    "floor": "the first supervisor, trained on ground truth",
    "member": "one of several supervisors whose labels are combined",
    "zero_shot": "the model before any training",
    "chain": "learns from the labels of the chain's model one level below",
    "direct": "learns from the floor's labels; for a chain's first student that is the same stage",
    "truth_chain": "learns from the labels of a model one level below that learned the truth: a chain without errors",
    "pooled": "learns from the floor's labels on all examples that the chain used; its ceiling learns the last level's",
    "self": "the floor's own model, trained again on the floor's labels; it has no ceiling, so no PGR",
    "ceiling": "the student's model trained on the truth of the same examples",
    "full_ceiling": "the ceiling with all weights trained, for a student that trains only some",
}
_MARKS = {
    "[": "95 % interval; reliable: it excludes 0 (several results are not corrected for)",
    BELOW_UNTRAINED: "reliably below its untrained model: the 95 % interval of the difference is below 0",
    "(oracle)": "used ground truth that a weakly supervised student does not have, or its supervisor did",
    "!": "nearly all labels are the same",
}
"""By the characters that show them; that of few seeds depends on the study."""
_NAMES = {"[": "[low, high]"}


def column_lines(tables: Sequence[TableView], *, is_wide: bool = True) -> dict[str, str]:
    """Return the meaning of each column of these tables that is shown, by its title."""
    columns = [column for table in tables for column in table.columns if is_wide or not column.is_wide]
    return {column.title: column.about for column in columns if column.about}


def arm_lines(summary: Summary) -> dict[str, str]:
    """Return the meaning of each kind of arm that the study has."""
    kinds = {kind for arm in summary.arms for kind in arm.kinds}
    return {arm: about for arm, about in ARM_MEANINGS.items() if arm in kinds}


def mark_lines(summary: Summary, tables: Sequence[TableView]) -> dict[str, str]:
    """Return the meaning of each mark in these tables."""
    marks = {**_MARKS, FEW_SEEDS_MARK: seeds_line(summary) or ""}
    text = "".join(str(cell) for table in tables for row in table.rows for cell in row.cells)
    return {_NAMES.get(mark, mark): about for mark, about in marks.items() if about and mark in text}


def legend(summary: Summary, tables: Sequence[TableView], *, is_wide: bool = True) -> dict[str, str]:
    """Return the meaning of each column, arm and mark that these tables show."""
    columns = column_lines(tables, is_wide=is_wide)
    arms = {arm: about for arm, about in arm_lines(summary).items() if arm not in columns}
    return {**columns, **arms, **mark_lines(summary, tables)}
