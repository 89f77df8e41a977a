"""Models from a hub such as huggingface.co: which to begin with, and how they come into the model
folder. What speaks to the hub is engine/hub.py, which the engine's Python runs."""
