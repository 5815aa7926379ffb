"""Before a run: names resolved, costs estimated, memory and models checked. Needs no Ray."""
