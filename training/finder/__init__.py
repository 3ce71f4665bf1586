"""The person finder: a small network that finds everyone in a frame, trained on painted frames."""
