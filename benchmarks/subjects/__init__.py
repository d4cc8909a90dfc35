"""The subjects of the benchmark: one file each, all with the verbs of `base.Subject`."""
