"""Checking and encoding values: arguments, exact JSON, messages, cached values, files of JSON. Knows no SQL."""
