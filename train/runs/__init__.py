"""A run's folder: checkpoints, resuming, metrics, progress, the best policy, the table of a sweep."""
