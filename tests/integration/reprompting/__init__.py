"""Claim -> re-prompt -> score -> pair, with a real PostgreSQL and scripted model and guard servers."""
