"""Guard models: one file per grammar, and the client that asks them."""
