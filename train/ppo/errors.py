"""The error that ends a training run."""


class TrainingBroken(RuntimeError):
    """Training cannot go on; the message says why, and what to look at."""
