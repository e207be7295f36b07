"""The calibrate stage: what every float tensor's values look like over the rows."""
