"""Tasks: raw rows become examples.

A *task* is a labelled data set: a table of examples and the names of its classes. This room knows where rows come from
(`table.py`: files and the hub; `corpus.py`: the Python source of installed packages) and what an example's text, label
and group are. It knows nothing of splits, tokens or models: those are the data room's and later.

Three properties hold for every task, whoever writes it:
- an example's id is a digest of its content, so it is the same in every process and on every machine;
- related examples share a group, and a group is never divided between splits;
- a fingerprint names all that decides the table, and is cheap enough to be taken for every plan.
"""
