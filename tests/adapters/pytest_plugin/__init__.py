"""The plugin of pytest: stores for the tests of those who use statestore."""
