"""What a node thinks of its peers: broken rules are counted, forgotten with time, and have consequences that grow.

After PEER_FAULTS_TO_BAN a peer is cut off, four times as long each time. When it is let in again it is on the graylist
for a while: what it forwards by gossip is not even looked at. Time is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from golemp2p import limits


@dataclass
class _Score:
    faults: float = 0.0
    at: float = 0.0
    bans: int = 0
    banned_until: float = 0.0


class PeerScores:
    def __init__(self, *, max_peers: int = limits.MAX_KNOWN_PEERS) -> None:
        self._max_peers = max_peers
        self._scores: OrderedDict[Hashable, _Score] = OrderedDict()

    def blame(self, peer: Hashable, now: float) -> float:
        """A rule was broken. How long to cut ``peer`` off for, in seconds; 0 is not at all."""
        score = self._scores.pop(peer, None) or _Score(at=now)
        self._scores[peer] = score
        if len(self._scores) > self._max_peers:
            self._scores.popitem(last=False)  # the one that was not blamed for the longest time
        score.faults, score.at = self._faults(score, now) + 1, now
        if score.faults <= limits.PEER_FAULTS_TO_BAN - 1:
            return 0.0
        if now - score.banned_until > limits.BANS_REMEMBERED_S:
            score.bans = 0
        duration_s = min(limits.PEER_BAN_S * limits.PEER_BAN_GROWTH**score.bans, limits.PEER_BAN_MAX_S)
        score.faults, score.bans, score.banned_until = 0.0, score.bans + 1, now + duration_s
        return float(duration_s)

    def graylisted(self, peer: Hashable, now: float) -> bool:
        score = self._scores.get(peer)
        return score is not None and score.bans > 0 and now < score.banned_until + limits.GRAYLIST_S

    @staticmethod
    def _faults(score: _Score, now: float) -> float:
        return float(score.faults * 0.5 ** ((now - score.at) / limits.FAULT_HALF_LIFE_S))
