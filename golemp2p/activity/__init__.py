"""Activities: the exe-unit supervisor on the provider's side, its remote end on the requestor's.

node.py composes :class:`golemp2p.activity.service.ActivityService`; what it needs of others is in ``ports``.
"""
