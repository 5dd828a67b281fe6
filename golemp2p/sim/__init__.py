"""Simulation of whole networks: the services of a node on a virtual network and in virtual time (protocols/simulation.md)."""
