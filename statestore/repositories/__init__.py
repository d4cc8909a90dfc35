"""The operations, written once in blocking style, one folder per family. They never commit, retry or sleep."""
