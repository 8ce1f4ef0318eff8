"""Training: one loop, a recipe per model, aligned photos as data."""
