"""Payment networks as data: one TOML file for each that golemp2p knows, and the schema of files and settings.

A profile's values are facts that others published (research: settlement.md, sections 3 and 8; yagna's driver
configuration); what can be checked on the chain is checked at first contact, before any money moves.
"""

from golemp2p.networks.profiles import builtin_names, builtin_profile, merge
from golemp2p.networks.schema import CycleEntry, NetworkEntry, Profile

__all__ = ["CycleEntry", "NetworkEntry", "Profile", "builtin_names", "builtin_profile", "merge"]
