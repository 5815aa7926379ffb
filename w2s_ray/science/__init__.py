"""Pure functions on numbers: how good a student is, what it recovered, how sure that is. No torch, no files."""
