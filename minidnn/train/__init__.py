"""Training: data and what is done to it, first weights, the loop as a generator, checkpoints, curves.

All that is random in a run follows from its seed, the epoch and the number of the batch: so a run that is
resumed, or done again, is the same run.
"""
