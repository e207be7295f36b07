"""From an emitted graph to the artifact that one runtime loads."""
