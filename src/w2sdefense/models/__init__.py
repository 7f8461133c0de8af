"""Opening checkpoints safely, adapters, and predictions."""
