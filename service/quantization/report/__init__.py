"""The report of a build, as JSON and as one page."""
