"""`doctor`: what is found of machine, installation and runs, and what to do about it."""
