"""Speed measurements, with comparisons to other software on the same machine."""
