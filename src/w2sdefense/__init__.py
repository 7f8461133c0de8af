"""Remove backdoors from language models, and show that they are gone."""
