"""The results of a study, from the records and predictions in its store; nothing here trains.

`evidence.py` reads the store, `arms.py` finds the distinct arms, `metrics.py` declares and computes the metrics,
`evaluation.py` bootstraps and compares the arms of a task, `across.py` does so over tasks, and `summary.py` puts all of
that into a `Summary` (`findings.py`). `tables.py` and `figures.py` show it, in the terminal and on the page;
`results.py` makes a data frame. Students are shown as they are, and a PGR without a sure gap is undefined.
"""
