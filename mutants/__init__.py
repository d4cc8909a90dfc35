"""Blind mutations: what the tests do not notice, nobody promises. See `./run mutants --help`."""
