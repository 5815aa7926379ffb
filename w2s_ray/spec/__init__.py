"""WHAT is asked: the study as its author wrote it, and the chains and stages that it compiles to.

`study.py` is the YAML file, `load.py` reads it, `compile.py` compiles it to chains of stages with identities. What can
change a result (`StageSpec`) and how it is computed (`Execution`) are separate types, so that nobody confuses them.
"""
