"""Training: base models, and adapters on frozen ones, by Lightning's Trainer (`pip install "suffice[train]"`).

| what is trained | file |
|---|---|
| a classifier | `classifier.py` |
| a LAX adapter | `adapter.py` |
| a network of activation matching | `matcher.py` |

They share `examples.py`, which images each step sees, and `run.py`, checkpoints, resume and what stops a run. Nothing
here is imported before training is asked for, as Lightning is an extra.
"""
