"""Which rows became no example, and why: counted, named, and refused where there are too many."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from w2s_ray.errors import DataError
from w2s_ray.tasks.examples import Skip
from w2s_ray.tasks.sources import Source
from w2s_ray.tasks.task import LeftOut

SHOWN = 5
"""How many rows, and how many values, a report names."""


@dataclass(eq=False)
class Account:
    """The rows of one source that became no example, by reason."""

    source: Source
    num_rows: int = 0
    _rows: dict[tuple[str, bool], dict[int, str]] = field(default_factory=lambda: defaultdict(dict))

    def leave_out(self, row: int, skip: Skip) -> None:
        """Count a row, numbered from 1."""
        self._rows[skip.reason, skip.is_fault][row] = "" if skip.value is None else repr(skip.value)

    def left_out(self) -> list[LeftOut]:
        """Return what is left out, faults first."""
        return [
            LeftOut(
                source=self.source.name,
                reason=" ".join((reason, ", ".join(sorted(set(filter(None, rows.values())))[:SHOWN]))).strip(),
                num_rows=len(rows),
                first_rows=tuple(sorted(rows)[:SHOWN]),
                num_source_rows=self.num_rows,
                is_fault=is_fault,
            )
            for (reason, is_fault), rows in sorted(self._rows.items(), key=lambda each: not each[0][1])
        ]

    def check(self, max_skipped: float) -> None:
        """Refuse the source when more than the share `max_skipped` of its rows are not as they should be.

        Raises:
            DataError: with the reasons and the first rows.
        """
        check_left_out(self.left_out(), max_skipped)


def check_left_out(left_out: Sequence[LeftOut], max_skipped: float) -> None:
    """Refuse a source when more than the share `max_skipped` of its rows are not as they should be.

    Raises:
        DataError: with the reasons and the first rows.
    """
    for name in dict.fromkeys(each.source for each in left_out):
        faults = [each for each in left_out if each.source == name and each.is_fault]
        num_faults = sum(each.num_rows for each in faults)
        if faults and num_faults > max_skipped * faults[0].num_source_rows:
            reasons = "; ".join(f"{each.reason} in {each.where}" for each in faults)
            raise DataError(
                f"{name}: {num_faults} of {faults[0].num_source_rows} rows are no examples: {reasons}",
                f"at most {max_skipped:.1%} of the rows may be left out (max_skipped)",
                "mend or remove those rows, correct the task's columns and classes, or raise `max_skipped:`",
            )
