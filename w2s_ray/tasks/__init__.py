"""Tasks: raw rows become examples.

A *task* is a data set: a table of examples and the names of its classes. This room knows where rows come from
(`sources.py`: files; `hub.py`: the hub; `corpus.py`: the Python source of installed packages), how a row is read
(`examples.py`: formats; `own.py`: formats of the study's keys; `nlp/`: recipes of known data sets, `dataset.py`), and
how rows become a table with every row accounted for (`gather.py`). It knows nothing of splits, tokens or models: those
are the data room's and later.

Three properties hold for every task, whoever writes it:
- an example's id is the data set's own or a digest of its content, so it is the same in every process and on every
  machine;
- related examples share a group, and a group is never divided between splits;
- a fingerprint names all that decides the table, and is cheap enough to be taken for every plan.
"""
