"""Examples on their way to the optimizer: prepared once, split honestly, tokenised once, batched the same anywhere.

`prepare.py` brings a task into the store, `splits.py` draws S, Ti, Vi and test from it, `labels.py` joins labels by
example id, `tokens.py` tokenises the whole table once, `batches.py` says which examples make one optimizer step and
how workers share them. All of it is deterministic: hashes of seeds and ids, never a generator with a state.
"""
