"""What is done to strings: insertion, rewriting, paraphrase files. No model is known here."""
