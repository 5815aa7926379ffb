"""Tasks made from the Python source of installed packages, so that no download is needed.

corpus              the functions of the packages, divided into pools without near-duplicates
code_continuation   labelled tasks: does this line follow? With the manifest of the published examples
python_source       the rest of the source as text for pretraining
"""
