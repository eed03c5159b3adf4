"""The detector that a command uses: from where, on which device, at which thresholds, and how its boxes are drawn."""
