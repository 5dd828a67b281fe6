#!/usr/bin/env python
"""One demand against very many offers: ``python scripts/bench/match.py [--offers 1000 10000 100000] [--json]``.

Offers as yagna's and ours are (about 40 properties, prices and names that differ, an expiry of their own in their
constraints), demands as yapapi's. "plain" asks core.constraints.match of every offer; "cold" is the index's first
answer, "next" that to the same kind of demand by another program. All answers are compared. The times are CPU times
of one core, so that a busy machine does not count. Exit status 0 when the goals are met at the largest number:
MAX_COLD_S and MAX_INDEXED_S.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from golemp2p.core.constraints import Terms, Ternary, match
from golemp2p.core.ids import PeerId, SubscriptionId
from golemp2p.core.records import MarketRecord, RecordKind
from golemp2p.market.matching import OfferIndex

MAX_COLD_S: Final = 1.0
MAX_INDEXED_S: Final = 0.05
NOW_MS: Final = 1_790_000_000_000


def offer(number: int, rng: random.Random) -> MarketRecord:
    runtime = rng.choices(["vm", "wasmtime", "vm-nvidia", "custom"], [70, 20, 8, 2])[0]
    threads = rng.choice([1, 2, 4, 8, 12, 16, 24, 32, 64])
    properties: dict[str, Any] = {
        "golem.activity.caps.transfer.protocol": ["http", "https", "gftp"],
        "golem.com.payment.debit-notes.accept-timeout?": 240,
        "golem.com.payment.platform.erc20-holesky-tglm.address": f"0x{rng.randbytes(20).hex()}",
        "golem.com.payment.platform.erc20-polygon-glm.address": f"0x{rng.randbytes(20).hex()}",
        "golem.com.payment.protocol.version": 3,
        "golem.com.pricing.model": "linear",
        "golem.com.pricing.model.linear.coeffs": [rng.random() / 3600, rng.random() / 3600, 0.0],
        "golem.com.scheme": "payu",
        "golem.com.scheme.payu.debit-note.interval-sec?": 120,
        "golem.com.scheme.payu.payment-timeout-sec?": 120,
        "golem.com.usage.vector": ["golem.usage.cpu_sec", "golem.usage.duration_sec"],
        "golem.inf.cpu.architecture": "x86_64",
        "golem.inf.cpu.brand": rng.choice(["AMD EPYC 7713", "Intel Xeon 6226R", "AMD Ryzen 9 7950X", "Intel i7-9700"]),
        "golem.inf.cpu.capabilities": ["sse3", "pclmulqdq", "avx2", "sha", "aes"],
        "golem.inf.cpu.cores": max(threads // 2, 1),
        "golem.inf.cpu.model": f"Stepping {rng.randrange(16)} Family {rng.randrange(30)}",
        "golem.inf.cpu.threads": threads,
        "golem.inf.cpu.vendor": "AuthenticAMD",
        "golem.inf.mem.gib": round(rng.uniform(0.5, 512), 2),
        "golem.inf.storage.gib": rng.uniform(1, 2000),
        "golem.node.debug.subnet": "public",
        "golem.node.id.name": f"provider-{number}",
        "golem.node.net.is-public": rng.random() < 0.3,
        "golem.runtime.capabilities": ["inet", "vpn", "manifest-support", "start-entrypoint"],
        "golem.runtime.name": runtime,
        "golem.runtime.version": rng.choice(["0.3.0", "0.4.1", "0.5.2"]),
        "golem.srv.caps.multi-activity": True,
        "golem.srv.caps.payload-manifest": True,
    }
    expiration = NOW_MS - rng.randrange(3_600_000)
    terms = Terms(properties, f"(&\n  (golem.srv.comp.expiration>{expiration})\n  (golem.node.debug.subnet=public)\n)")
    record = MarketRecord(
        RecordKind.OFFER,
        SubscriptionId(f"offer-{number}"),
        PeerId(f"peer-{number}"),
        "public",
        b"",
        sequence=1,
        issued_at=0.0,
        expires_at=1e12,
    )
    record.__dict__["terms"] = terms  # as decoded: whoever verified it has done that
    return record


def demand(number: int, memory_gib: float, more: str = "") -> Terms:
    return Terms(
        {
            "golem.node.debug.subnet": "public",
            "golem.node.id.name": f"requestor-{number}",
            "golem.srv.caps.multi-activity": True,
            "golem.srv.comp.expiration": NOW_MS + 1_800_000 + number,
            "golem.srv.comp.task_package": "hash:sha3:2e1d8d0b:http://example.invalid/image.gvmi",
            "golem.com.payment.platform.erc20-holesky-tglm.address": "0x" + "ab" * 20,
        },
        f"(&(golem.inf.mem.gib>={memory_gib})(golem.inf.storage.gib>=2.0)(golem.inf.cpu.threads>=4)"
        f"(golem.runtime.name=vm)(golem.com.pricing.model=linear)(golem.com.payment.platform.erc20-holesky-tglm."
        f"address=*)(golem.node.debug.subnet=public){more})",
    )


def timed(index: OfferIndex, wanted: Terms) -> tuple[float, list[MarketRecord]]:
    started = time.process_time()
    found = list(index.candidates(wanted, now=1.0, subnet="public"))
    return time.process_time() - started, found


def measure(count: int) -> dict[str, Any]:
    rng = random.Random(count)
    offers = [offer(number, rng) for number in range(count)]
    # Objects that stay are no work of the matcher: without this the collector walks through them now and then.
    gc.collect()
    gc.freeze()
    index, before_kib = OfferIndex(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    for one in offers:
        index.on_added(one)
    fill_s = time.process_time() - started
    cold_s, first = timed(index, demand(1, 0.5))
    next_s, second = timed(index, demand(2, 0.5))
    other_s, third = timed(index, demand(3, 64.0))
    cheap_s, fourth = timed(index, demand(4, 0.5, f"(golem.node.id.name=provider-{count // 2})"))
    one_more = offer(count, rng)
    index.on_added(one_more)
    index.on_removed(offers[0])
    after_s, fifth = timed(index, demand(5, 0.5))
    started = time.process_time()
    plain = [one for one in offers if match(demand(1, 0.5), one.terms) is Ternary.TRUE]
    plain_s = time.process_time() - started
    assert first == plain
    assert second == plain
    assert third == [one for one in plain if match(demand(3, 64.0), one.terms) is Ternary.TRUE]
    assert len(fourth) <= 1
    assert fifth == [one for one in [*offers[1:], one_more] if match(demand(5, 0.5), one.terms) is Ternary.TRUE]
    return {
        "offers": count,
        "matching": len(first),
        "plain_s": plain_s,
        "fill_s": fill_s,
        "cold_s": cold_s,
        "next_s": next_s,
        "other_clause_s": other_s,
        "by_name_s": cheap_s,
        "after_a_change_s": after_s,
        "growth_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offers", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lines = [measure(count) for count in options.offers]
    last = lines[-1]
    met = last["cold_s"] <= MAX_COLD_S and max(last["next_s"], last["after_a_change_s"]) <= MAX_INDEXED_S
    if options.json:
        print(json.dumps({"lines": lines, "met": met}))
    else:
        print("ms: plain matcher, filling the index, first demand, next, another clause, a unique name, after a change")
        for line in lines:
            names = ("plain_s", "fill_s", "cold_s", "next_s", "other_clause_s", "by_name_s", "after_a_change_s")
            print(
                f"{line['offers']:>7} offers, {line['matching']:>6} match:"
                + "".join(f"{line[name] * 1000:9.1f}" for name in names)
                + f"   +{line['growth_mib']:.0f} MiB"
            )
        print(f"goals {MAX_COLD_S:g} s cold, {MAX_INDEXED_S:g} s indexed: {'met' if met else 'not met'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
