"""Choosing the settings of W2SDefense without a trigger: a signal, a search, a choice."""
