"""Grids of runs: recipes, the graph of nodes that they need, and the ledger of results."""
