"""The documentation: its examples are run, its links lead somewhere, and it leaves out nothing public."""
