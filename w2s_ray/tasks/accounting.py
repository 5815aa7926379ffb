"""Which rows became no example, and why: counted, named, and refused where there are too many."""

from collections import defaultdict
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
                is_fault=is_fault,
            )
            for (reason, is_fault), rows in sorted(self._rows.items(), key=lambda each: not each[0][1])
        ]

    def check(self, max_skipped: float) -> None:
        """Refuse the source when more than the share `max_skipped` of its rows are not as they should be.

        Raises:
            DataError: with the reasons and the first rows.
        """
        num_faults = len({row for (_, is_fault), rows in self._rows.items() if is_fault for row in rows})
        if num_faults > max_skipped * self.num_rows:
            faults = "; ".join(f"{each.reason} in {each.where}" for each in self.left_out() if each.is_fault)
            raise DataError(
                f"{self.source.name}: {num_faults} of {self.num_rows} rows are no examples: {faults}",
                f"at most {max_skipped:.1%} of the rows may be left out (max_skipped)",
                "mend or remove those rows, correct the task's columns and classes, or raise `max_skipped:`",
            )
