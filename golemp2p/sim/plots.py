"""Pictures of a run, by matplotlib (the dependency group "sim")."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from golemp2p.errors import UsageError
from golemp2p.sim.world import Result

MAX_DRAWN: Final = 300  # nodes of a topology; more is a black disc


def draw(result: Result, directory: Path) -> list[Path]:
    """One PNG each; the paths. Raises UsageError without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as exc:
        raise UsageError("pictures need matplotlib", hint="pip install --group sim") from exc
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, picture in PICTURES.items():
        figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
        picture(result, axes)
        axes.set_title(f"{result.scenario.name}: {name.replace('-', ' ')} ({result.nodes} nodes)")
        path = directory / f"{result.scenario.name}-{name}.png"
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
        paths.append(path)
    return paths


def _offers(result: Result, axes: Any) -> None:
    samples = result.measures.samples
    times = [s.at_s for s in samples]
    axes.plot(times, [s.live_offers * s.known_share for s in samples], label="known by the average node")
    axes.plot(times, [s.live_offers * s.known_least for s in samples], label="by the node that knows the fewest")
    axes.plot(times, [s.live_offers for s in samples], "k--", linewidth=1, label="live")
    _label(axes, "offers")


def _latency(result: Result, axes: Any) -> None:
    ordered = sorted(result.measures.latencies)
    axes.plot(ordered, [(i + 1) / len(ordered) for i in range(len(ordered))])
    if ordered:
        axes.set_xlim(0, max(ordered[int(0.995 * (len(ordered) - 1))] * 1.2, 0.1))
    axes.set_xlabel("seconds from announcement to a node's book (right edge: 99.5 %)")
    axes.set_ylabel("share of arrivals")
    axes.grid(visible=True, alpha=0.3)


def _traffic(result: Result, axes: Any) -> None:
    totals = [traffic.total() for traffic in result.measures.traffic]
    hours = max(result.virtual_s, 1.0) / 3_600
    axes.scatter(
        [t.sent / hours for t in totals], [t.sent_bytes / hours / 1e6 for t in totals], s=12, alpha=0.6, label="a node"
    )
    axes.set_xlabel("messages sent in an hour")
    axes.set_ylabel("megabytes sent in an hour")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(visible=True, alpha=0.3)


def _work(result: Result, axes: Any) -> None:
    samples = result.measures.samples
    times = [s.at_s for s in samples]
    axes.step(times, [s.agreements for s in samples], where="post", label="agreements approved")
    axes.step(times, [s.tasks for s in samples], where="post", label="tasks done")
    axes.plot(times, [s.nodes for s in samples], "k--", linewidth=1, label="nodes alive")
    _label(axes, "count")


def _money(result: Result, axes: Any) -> None:
    """Who paid how much to whom."""
    flows = result.measures.flows
    payers = sorted({payer for payer, _ in flows})
    payees = sorted({payee for _, payee in flows})
    if not flows:
        axes.text(0.5, 0.5, "nothing was paid", ha="center")
        return
    table = [[flows[payer, payee] / 1e18 for payee in payees] for payer in payers]
    image = axes.imshow(table, aspect="auto", cmap="viridis")
    axes.figure.colorbar(image, label="GLM")
    axes.set_xlabel(f"{len(payees)} payees")
    axes.set_ylabel(f"{len(payers)} payers")
    axes.set_xticks([])
    axes.set_yticks([])


def _topology(result: Result, axes: Any) -> None:
    """Connections between the places of the nodes at the end; the distance is the latency."""
    places = result.measures.places[:MAX_DRAWN]
    for one, other in result.measures.edges:
        if one < len(places) and other < len(places):
            (ax, ay), (bx, by) = places[one], places[other]
            axes.plot([ax, bx], [ay, by], color="0.8", linewidth=0.5, zorder=1)
    for role in sorted(set(result.measures.roles)):
        mine = [place for place, its in zip(places, result.measures.roles, strict=False) if its == role]
        axes.scatter([x for x, _ in mine], [y for _, y in mine], s=22, label=role, zorder=2)
    axes.legend(fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])


def _label(axes: Any, what: str) -> None:
    axes.set_xlabel("virtual seconds")
    axes.set_ylabel(what)
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(visible=True, alpha=0.3)


PICTURES: Final[dict[str, Callable[[Result, Any], None]]] = {
    "offers-known": _offers,
    "propagation": _latency,
    "traffic": _traffic,
    "work": _work,
    "money": _money,
    "topology": _topology,
}
