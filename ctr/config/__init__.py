"""The configuration: schemas, command lines, help, messages."""
