"""Before a run: names resolved, costs estimated, memory checked. Needs no Ray."""
