"""What to run: the recipe schema, its loader, one YAML per recipe."""
