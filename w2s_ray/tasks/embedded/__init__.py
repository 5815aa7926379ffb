"""Tasks made from the Python source of installed packages, so that no download is needed.

corpus              the functions of the packages, divided into pools without near-duplicates
code_continuation   labelled tasks: does this line follow?
code_domain         a labelled task: from a deep learning package, or from elsewhere?
published           digests of the labelled examples (`manifest.json`); rewrite: `python -m w2s_ray.tasks.embedded`
python_source       the rest of the source as text for pretraining
"""
