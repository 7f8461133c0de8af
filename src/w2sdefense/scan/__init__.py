"""Is there a backdoor, and what fires it? A search that needs the model and clean text only."""
