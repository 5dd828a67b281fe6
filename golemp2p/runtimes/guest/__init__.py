"""The guest agent (agent.c) and the host's end of it: what runs commands and moves files inside containers and VMs.

The protocol is protocols/guest.md. ``build`` compiles the agent, ``protocol`` is pure, ``session`` is the live end,
``files`` the volumes over it.
"""

from golemp2p.runtimes.guest.build import agent_binary
from golemp2p.runtimes.guest.files import SessionFiles
from golemp2p.runtimes.guest.session import GuestExit, GuestSession, GuestUsage, RunLimits, open_session

__all__ = ["GuestExit", "GuestSession", "GuestUsage", "RunLimits", "SessionFiles", "agent_binary", "open_session"]
