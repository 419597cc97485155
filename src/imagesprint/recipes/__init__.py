"""Recipes: the tables that hold whatever changes a training's result, and their schedule. No torch."""
