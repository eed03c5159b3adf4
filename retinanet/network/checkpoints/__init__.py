"""Checkpoints of other projects' RetinaNets: safe reading, their names and shapes, and the settings they need."""
