"""The command `w2s`: parse the arguments, call the package, print the result.

`main.py` declares the verbs and imports nothing heavy; the module of a verb is imported when it is called. Only our own
lines reach the terminal (`terminal.py`); the output of Ray, DeepSpeed, transformers and W&B goes to a log file.
"""
