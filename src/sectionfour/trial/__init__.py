"""To try it: the demonstration, and load on a running service."""
