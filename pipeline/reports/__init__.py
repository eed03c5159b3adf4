"""What people look at: curves, pictures, result files."""
