"""Exe-unit runtimes: one folder each behind :mod:`golemp2p.runtimes.base`."""
