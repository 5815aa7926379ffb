"""The command `w2s`: parse, call, print.

`main.py` declares the verbs and loads nothing heavy; each verb's module is imported when it is called. Only our own
lines reach the terminal (`terminal.py`): what Ray, DeepSpeed, transformers and W&B print goes to a log file.
"""
