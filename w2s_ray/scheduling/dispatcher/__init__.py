"""The dispatcher: the actor that assigns stages to worker groups.

dispatcher.py  the actor: turns calls into events for the core, and carries out the core's actions
reports.py     what it answers to trials, worker groups and the run
leases.py      the leases on a study and on its stages
writer.py      the actor that owns the tracker
"""
