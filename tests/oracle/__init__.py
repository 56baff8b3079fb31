"""The original beside ours: the same requests to both, and every difference named with its reason."""
