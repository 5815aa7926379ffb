"""The only room that imports ray: who trains what, when and on which workers.

`study.py` is its door (`run_study`); behind it one run is a dispatcher, its crews, and Tune's trials (`run.py`). What
to do next is a pure function (`policy.py`) of pure bookkeeping (`queue.py`, `roster.py`). `resolve.py`, `plan.py` and
`estimate.py` look ahead without Ray.
"""
