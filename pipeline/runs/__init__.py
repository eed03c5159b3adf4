"""What names a run, and what stores it: identity, code fingerprint, inputs, lease."""
