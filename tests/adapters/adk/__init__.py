"""The adapter for Google's Agent Development Kit, beside the framework."""
