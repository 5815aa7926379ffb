"""Records to results: what each arm's model is worth on the test set, how sure that is, and a page that shows it.

`evidence.py` reads the store; `results.py` makes a data frame of it, a row per stage of a chain; `summary.py` draws the
bootstrap and says what a study found, each distinct arm once; `table.py`, `figures.py` and `page.py` show it. Nothing
here trains, and nothing is dropped: students stand there as they are, and a PGR without a gap is called undefined.
"""
