"""Running a study on Ray: which stage is trained when, and on which workers.

study.py       run_study(), the entry; needs no Ray if everything is in the store
run.py         one run: the dispatcher, Tune, and what happens when one of them dies
session.py     the Ray session and the cluster's resources
core/          the pure core: events in, actions out
dispatcher/    the actor that feeds the core with events and carries out its actions
workers/       worker groups, which run the stages
tune/          Tune's trials: one per chain, or per candidate of a search
status.py      the status of a run, and the events of its stages
ray_adapter.py everything that uses private names of Ray
"""
