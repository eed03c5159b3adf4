"""Command export: the trained detector for those who use it, in MLflow's registry or as a folder."""
