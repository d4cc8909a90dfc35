"""What was used, summed up: of whole sessions and of whole days, up to a watermark.

The statements that write the sums are made by `usage/rolled.py`, beside what the reports read them with.
"""
