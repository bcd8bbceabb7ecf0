"""Any Gymnasium environment, as the trainer wants it."""
