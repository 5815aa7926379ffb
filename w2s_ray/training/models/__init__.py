"""Models: where they come from, what their files contain, and the networks that stages train.

- `catalogue.py` resolves a level's model to a revision (built in, local folder or hub) without loading torch
- `files.py` reads sizes and tokenizers from a model's files
- `vocabulary.py` refuses models whose tokenizer gives tokens that have no embedding
- `loading.py` builds networks and tokenizers from a model's files, `saving.py` writes the model that a stage exports
- `exports.py` completes exports of earlier versions
- `drawing.py` shards random weights while they are drawn
- `network.py` maps tokens to logits; `attention.py` lets it read texts without padding
- `adapters.py` freezes weights and adds LoRA; `unmerged.py` stores adapters without their base
- `prompts.py` builds few-shot prompts; `completions.py` the completions that a language model scores
"""
