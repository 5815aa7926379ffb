"""Train one stage on one process group. Uses torch and DeepSpeed, never Ray.

Every rank calls `stage.run_stage` with the same planned stage. Read in this order:

- `stage.py` the whole life of a stage: load, train, commit, predict
- `inputs.py` its data: task, tokens, tokenizer, folders of models; `feed.py` cuts it into micro-batches
- `features.py` hidden states of texts, for label transforms and probes; `probes.py` trains a head on stored features
- `objectives.py`, `language_objectives.py` what is learned, validated and predicted; `losses.py` every loss
- `loop.py` the optimizer steps; `checkpoints.py` resumes a killed stage
- `zero.py` DeepSpeed; `engine_config.py` its configuration; `placement.py` where its tensors are
- `progress.py` what a stage reports while it runs; `workers.py` its process group and collectives, `collectives.py`
  recognises their exceptions
- `model_check.py`, `model_trial.py` try a model before anything is trained: its export predicts what its stage does
- `processes.py` starts workers on this machine without Ray, for measurements
- `models/` where models come from, networks, adapters, prompts; `memory/` what workers need and have
"""
