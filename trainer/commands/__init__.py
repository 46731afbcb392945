"""Subcommands that need the training libraries; they join `sentinel` by entry point."""
