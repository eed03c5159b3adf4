"""Command export: publish the trained detector, in MLflow's registry or as a folder."""
