"""The weak-to-strong distillation: losses, teacher and trainer."""
