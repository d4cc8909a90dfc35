"""The adapter for strands, beside the framework."""
