"""How far apart a run and its benign counterpart can be."""
