"""Stage evaluate: what the trained detector finds on pictures it has not seen, in figures and in pictures."""
