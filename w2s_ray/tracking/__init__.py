"""Where metrics go while a study runs: JSON lines, and Weights & Biases unless it is disabled.

`tracker.py` has the protocol, `wandb.py` is the only module that imports wandb. One process of a run writes: it makes
the tracker (`fanout.open_tracker`), and the others send it their metrics.
"""
