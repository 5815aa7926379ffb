"""One process group that trains one stage; this room knows torch and DeepSpeed and nothing of Ray.

Every rank calls `stage.run_stage` with the same planned stage. `models.py` loads weights and heads, `feed.py` makes
tensors of the planned optimizer batches, `losses/` says what to aim at, `loop.py` takes the steps, `zero.py` is the
only file that knows DeepSpeed, `checkpoints.py` survives a kill, `predict.py` applies the trained model to a split.
"""
