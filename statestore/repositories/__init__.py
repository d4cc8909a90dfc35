"""The operations, written once in blocking style, one file per table family. They never commit, retry or sleep."""
