"""What follows from records alone: comparisons, fairness gain, the figures of a study."""
