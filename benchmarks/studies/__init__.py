"""Studies: programs at the very end, which compare and which nobody imports."""
