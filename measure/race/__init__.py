"""Our trainer and those that people use today, on the same environments and cores: error against wall time."""
