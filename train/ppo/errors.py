"""What ends a training run that cannot go on."""


class TrainingBroken(RuntimeError):
    """Training cannot go on; the message says why, and what to look at."""
