"""Simulation of whole networks: a node's services on virtual wires, in virtual time (protocols/simulation.md)."""
