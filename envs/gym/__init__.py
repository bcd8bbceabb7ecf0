"""Any Gymnasium environment, in the form that the trainer needs."""
