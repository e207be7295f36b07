"""Where each runtime may compute in INT8, on which grids, and with how large weights."""
