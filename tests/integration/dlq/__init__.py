"""Dead letters and halts: the store's functions, and the commands as programs of their own."""
