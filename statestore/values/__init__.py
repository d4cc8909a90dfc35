"""What a caller hands in and gets back: plain dataclasses, nothing lazy, nothing tied to a connection."""
