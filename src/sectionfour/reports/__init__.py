"""What is told of the service and its models, for people to read."""
