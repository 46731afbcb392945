"""Subcommands of `sentinel`: one file each, light to import; heavy parts are imported when called."""
