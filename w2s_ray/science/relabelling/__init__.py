"""Transforms of labels (spec/transforms.py), each a pure function from one labelled set of examples to another.

    label_set.py  the set that they work on, coins, and what "the first half" means
    apply.py      one after another
    trust.py      what knn, logistic and topological share: a proposed label, and what becomes of labels unlike it

The others are one method each. None of them knows where labels or features come from.
"""
