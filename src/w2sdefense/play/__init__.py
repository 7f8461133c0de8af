"""`w2s play`: `pair` runs the suspect and the cleaned model, `page` shows both in a browser."""
