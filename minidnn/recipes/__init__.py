"""Recipes: settings in one dataclass, and one function that cooks with what the rooms below offer."""
