"""The command line: parse, call, print. Each file adds its commands and imports what they need when they run."""
