"""What a study comes to before it runs: names resolved, costs estimated, memory checked. Needs no Ray."""
