"""A page that shows a prepared data set: counts, sizes, samples of every class, and what was dropped."""
