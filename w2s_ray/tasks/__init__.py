"""Tasks: raw rows become examples.

A *task* is a data set: a table of examples and the names of its classes. This room knows nothing of splits, tokens or
models; those belong to the data room and later ones.

    task, registry     what a task is; tasks by name
    sources, rows      where rows come from: local files or the hub
    dataset, own       known data sets (recipes), and data described by the study's keys
    examples           formats: how one row becomes examples
    gather, related    how rows become a table, with every row accounted for; groups of related examples
    judges             rules for written answers
    nlp/, hh_rlhf, chess/, embedded/    the known data sets, and tasks made from installed Python source

Three properties hold for every task:

- an example's id is the data set's own or a digest of its content, so it is the same in every process and machine;
- related examples share a group, and a group is never divided between splits;
- a fingerprint identifies everything that decides the table, and is cheap enough to compute for every plan.
"""
