"""Data sets of preference pairs: harmful pairs, benign twins and utility pairs, in the form that TRL takes."""
