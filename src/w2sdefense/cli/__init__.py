"""The command line: commands, options generated from the settings, terminal display."""
