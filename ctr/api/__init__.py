"""For those who train in Python: the scikit-learn estimator, and the pieces of a run for a loop of one's own."""
