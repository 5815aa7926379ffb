"""Memory of a stage's workers: what they will need, what they have, and what to do when it is too little.

- `footprint.py` computes what a worker of a planned stage holds (torch-free, used by `w2s plan`)
- `usage.py` reads the memory of machines, devices and processes, and recognises allocation failures
"""
