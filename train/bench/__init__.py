"""How fast it all is, beside others on the same machine."""
