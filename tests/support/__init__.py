"""What the tests of several folders share, and what is too large for a conftest."""
