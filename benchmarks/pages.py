"""Tables that a benchmark writes into a page of `docs/`, between two marks."""

from pathlib import Path

START, END = "<!-- table: begin -->", "<!-- table: end -->"


def write_table(page: Path, table: str) -> None:
    """Put the table into the page, instead of the one that is there."""
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")
