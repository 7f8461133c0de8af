"""Grids of runs: recipes, the graph of what they need, the ledger of what is done."""
