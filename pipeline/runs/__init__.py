"""Identity and storage of a run: digest, code fingerprint, input files, lock and lease."""
