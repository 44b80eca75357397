"""Shipped stand-ins for the world: twins of the ports, faults, and real servers on a short leash."""
