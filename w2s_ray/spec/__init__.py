"""The study as its author wrote it, and the chains and stages that it compiles to.

`study.py` is the YAML file (with `labels.py`, `losses.py`, `stage.py`, `deepspeed_keys.py`, `search.py` and
`reporting.py` for its parts), `load.py` reads it, and `checks.py` and `report_checks.py` hold the rules across its
parts. `compile.py` compiles it to the chains of `chain.py`, each by `chain_compiler.py` with the splits of
`level_splits.py`, and `points.py` makes the variants of a study for a search. What can change a result (`StageSpec`
of `stage.py`) and how it is computed (`ExecutionSpec` of `execution.py`) are separate types. `base.py` has the strict
base class of all, `identity.py` the digests, `own_code.py` functions that a study names in a file, and `model_check.py`
the inputs of a model check.
"""
