"""The convert stage: from a recipe to a graph in the wanted precision for each runtime."""
