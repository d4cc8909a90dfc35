"""The Claude Agent SDK."""
