"""What is checked of a value before any SQL: arguments, JSON, messages, files of JSON."""
