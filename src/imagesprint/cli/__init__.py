"""Parsing, printing and exit codes."""
