"""What is done beside answering, or at night."""
