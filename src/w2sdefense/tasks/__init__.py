"""What a model is asked to do: prompts, decoding and scores of a task."""
