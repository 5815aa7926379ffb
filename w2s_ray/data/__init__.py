"""From a task's examples to optimizer batches.

    prepare   writes a task's examples to the store, once
    splits    which examples are S, Ti, Vi and test
    labels    labels of a split: the task's own or predictions, joined by example id, then transformed
    tokens    tokenises the whole table, once per tokenizer
    batches   which examples make one optimizer step, and how workers share them

Everything is deterministic: random choices are hashes of seeds and ids, not the state of a generator.
"""
