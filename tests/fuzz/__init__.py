"""Random and damaged bytes for frames.py and connection.py, and who else reads them."""
