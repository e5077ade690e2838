"""Recipes as people look at them: which there are, what is in one, how two differ."""
