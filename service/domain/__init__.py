"""Plain frozen values, standard library and numpy only."""
