"""What was used, summed up: of whole sessions and of whole days, up to a watermark."""
