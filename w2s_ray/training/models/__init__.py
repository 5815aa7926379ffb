"""Models: where they come from, what their files contain, and the networks that stages train.

- `catalogue.py` resolves a level's model to a revision (built in, local folder or hub) without loading torch
- `network.py` builds, loads and saves networks
- `adapters.py` freezes weights and adds LoRA
- `prompts.py` builds few-shot prompts; `completions.py` the completions that a language model scores
"""
