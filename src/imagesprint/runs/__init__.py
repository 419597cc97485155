"""The run directory and its logs; what a process is among the ranks, and what ranks do together."""
