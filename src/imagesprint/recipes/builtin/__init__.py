"""One module a built-in recipe, each with a RECIPE."""
