"""Training: rows and batches, and the single setup of `transformers.Trainer`."""
