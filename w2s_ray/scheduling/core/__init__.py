"""The scheduler's pure core: events in, actions out. No clock, no store, no Ray.

    scheduler.py   Scheduler.handle(*events) -> list[Action]: the only door
    policy.py      decide(): which actions the state calls for
    queue.py       state of the stages
    groups.py      state of the worker groups, and what is free on the cluster

The dispatcher turns what happens on the cluster into events and carries out the actions. `benchmarks/schedule.py` does
the same on a virtual clock.
"""
