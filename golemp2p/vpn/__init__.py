"""Private networks between a requestor and the activities that run for it (protocols/tunnel.md).

``segment`` is one network as one node sees it: it decides where a packet goes. ``trunk`` carries packets to a peer.
``providing`` is the side of activities, ``owning`` that of the requestor; ``service`` is both, as node.py composes it.
"""
