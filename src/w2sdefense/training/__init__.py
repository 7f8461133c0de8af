"""Training: rows and batches, and the one set-up of `transformers.Trainer`."""
