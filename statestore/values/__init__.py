"""What a caller hands in and gets back: frozen dataclasses, nothing lazy, nothing tied to a connection."""
