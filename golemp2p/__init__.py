"""golemp2p: a peer-to-peer market for computing power on libp2p.

Programs use :mod:`golemp2p.sdk`; people use the ``golemp2p`` command; other languages use the REST API.
"""

__version__ = "0.1.0"
