"""Ray Tune over chains (trials.py) and over the candidates of a search (search.py, candidates.py)."""
