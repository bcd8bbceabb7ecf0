"""One training run and its folder: checkpoints, resuming, metrics, progress display, the best policy, loggers."""
