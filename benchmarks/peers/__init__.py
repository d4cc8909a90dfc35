"""The peers: one small adapter each, run by the interpreter of their own environment.

They work as their documentation shows, each with its own tables, on the same server or a file of its own in WAL mode
with `synchronous=FULL`. Objects that a program would keep between turns (engines, session objects) are kept here too.
"""
