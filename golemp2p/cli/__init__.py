"""The ``golemp2p`` command. Thin: parse, call client or sdk, render. Modules import heavy things inside functions:
``golemp2p --help`` takes a fifth of a second.
"""
