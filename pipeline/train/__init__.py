"""Stage train: one experiment on Ray, resumed where it was killed, and the best detector of it."""
