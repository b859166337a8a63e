"""One module for each fault that was found from outside, named by its id: the fault reproduced, and the right behaviour."""
