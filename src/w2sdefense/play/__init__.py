"""Trying a suspect and a cleaned model by hand: `pair` asks them, `page` shows it in a browser."""
