"""Training state, the optimisation step and the loop over epochs."""
