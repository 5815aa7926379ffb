"""Memory of a stage's workers: what they will need, what they have, and what to do when it is too little.

- `footprint.py` computes what a worker of a planned stage holds (torch-free, used by `w2s plan`)
- `limits.py` chooses how much of a sharded model is gathered at a time
- `settle.py` chooses what a stage leaves to `auto`, the same for the plan and the workers (torch-free)
- `fit.py` settles a stage in a worker, and chooses the size of its micro-batches
- `usage.py` reads the memory of machines, devices and processes, and recognises allocation failures
"""
