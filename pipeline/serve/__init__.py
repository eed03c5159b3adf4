"""Command serve: the detector as an HTTP service, on Ray Serve."""
