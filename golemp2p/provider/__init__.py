"""The provider agent: sells what the node can run. Talks REST to its node like any agent.

``run_provider`` keeps an offer for each runtime on the market, negotiates, approves agreements within capacity,
bills by debit notes and invoices, and ends what is idle or expired.
"""

from golemp2p.provider.agent import run_provider
from golemp2p.provider.offer import ProviderTerms

__all__ = ["ProviderTerms", "run_provider"]
