"""Worker groups: Ray Train groups of processes that stay warm from stage to stage.

group.py          starts a group and reports how it ended
process_group.py  connects its workers, and lets them share values between stages
failures.py       the meaning of an exception inside a stage
worker.py         what each worker does: get an order, run the stage, return the outcome
memory_watch.py   ends a worker whose machine runs short of memory
"""
