"""Where points go while a study runs: W&B, JSON lines, or nowhere.

One small protocol (`tracker.py`); `wandb.py` is the only module that imports wandb. One process of a run writes: a
tracker is made by `opening.py` inside it, and everyone else sends it points.
"""
