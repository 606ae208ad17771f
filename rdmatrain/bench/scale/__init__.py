"""How cost grows with the ranks: measured on this machine, simulated beyond it."""
