"""Subcommands of what goes out."""
