"""From a model file, a recipe and data to artifact files and a report; no database."""
