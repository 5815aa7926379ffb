"""The store: what was computed, named by identity, and safe to read whenever a writer dies.

A folder counts once its `record.json` is there, and that file is written last. Files come to be under a temporary
name and are renamed when they are complete and on the disk. Reads check the SHA-256 of what they use, and nothing is
ever unpickled: JSON, Parquet, Arrow, NumPy without objects, safetensors.
"""
