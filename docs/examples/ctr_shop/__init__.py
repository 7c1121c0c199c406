"""Parts for ctr from another package: a model, a dataset, an optimizer."""
