"""One file for each concurrency model, with its client and its middleware."""
