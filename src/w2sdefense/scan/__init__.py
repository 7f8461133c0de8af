"""Searches a model for a backdoor and its trigger, given only the model and clean text."""
