"""The results of a study, from the records and predictions in its store; nothing here trains.

`evidence.py` reads the store, `arms.py` finds the distinct arms, `metrics.py` declares and computes the metrics,
`evaluation.py` bootstraps and compares the arms of a task, `across.py` does so over tasks, `verdict.py` makes sentences
of it, and `summary.py` puts all of that into a `Summary` (`findings.py`). `tables.py`, `legend.py` and `figures.py`
show it, in the terminal and on the page; `results.py` makes data frames. Students are shown as they are, and a PGR
without a sure gap is undefined.
"""
