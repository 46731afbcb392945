"""The gate: whether a candidate may go into service, decided from paired outcomes under a policy fixed beforehand."""
