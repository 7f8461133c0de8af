"""Models: opening checkpoints safely, tokenizers, adapters, features, and checks of weights."""
