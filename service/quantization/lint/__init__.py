"""Which operators of an emitted graph a runtime will run in INT8, and by which of its rules."""
