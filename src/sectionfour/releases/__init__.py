"""What goes out: rows that may leave, and the models that come along."""
