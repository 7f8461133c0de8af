"""The commands, a page each: poison, teach, defend, evaluate, scan, tune, demo."""
