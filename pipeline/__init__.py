"""The experiment: four DVC stages, and one door for each outside world (Ray, MLflow, YAML)."""

__version__ = "0.1.0"
