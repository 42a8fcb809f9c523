"""The tables of the evidence, as Markdown. All figures are computed but those that are promised."""

from __future__ import annotations

from prfaas.commands.evidence.promises import head, paper_figures, promises, sensitivity
from prfaas.commands.evidence.runs import MODERATE, OVERLOADED, PAPER_LINKS
from prfaas.commands.evidence.text import Results, bar, good_per_cost, less, mean, prose, share_of, table
from prfaas.simulator import Result


def page(results: Results) -> str:
    """All sections."""
    sections = (
        head(),
        promises(results),
        sensitivity(results),
        _paper(results),
        _ablations(results),
        _parts(results),
        _robust(results),
    )
    return "\n\n".join(sections) + "\n"


def _paper(results: Results) -> str:
    base, calm = results[f"paper/homogeneous {OVERLOADED}"], results[f"paper/homogeneous {MODERATE}"]
    rows = [["homogeneous, 9 + 3", *_paper_row(base, calm), "1.00x", "", bar(base.served_per_second, 3.3)]]
    for label, _, _ in PAPER_LINKS:
        over, at_rest = (
            results[f"paper/prfaas{label} {OVERLOADED}"],
            results[f"paper/prfaas{label} {MODERATE}"],
        )
        throughput, ttft, _ = paper_figures(results, label)
        rows.append(
            [
                f"PrfaaS-PD{label}",
                *_paper_row(over, at_rest),
                f"{throughput:.2f}x",
                less(ttft),
                bar(over.served_per_second, 3.3),
            ]
        )
    return "\n\n".join(
        (
            "## The paper's system, simulated",
            prose(
                "4 fast instances behind a link and 8 slow ones, divided by the planner, against 12 slow",
                "ones; the planner's threshold alone decides. Published: 3.24 against 2.11 requests/s",
                "(1.54x), mean time to first token 2.22 against 4.44 s without any queueing. Here",
                "throughput is what is served of 6 requests/s when everyone leaves who waits for half a",
                "minute, which costs the baseline five percent; the time to first token is at 1.6",
                "requests/s with the queues that Poisson arrivals make, more than 2 Gbit/s or a dense",
                "model over 10 Gbit/s can carry.",
            ),
            table(
                ["system", "served/s", "busiest Gbit/s", "TTFT mean s", "P90", "over", "TTFT", "served/s"],
                rows,
            ),
        )
    )


def _paper_row(over: Result, calm: Result) -> list[str]:
    busiest = over.links[0].busiest_bits_per_second / 1e9 if over.links else 0.0
    ttft = calm.total.ttft_seconds
    return [
        f"{over.served_per_second:.2f}",
        f"{busiest:.1f}",
        f"{mean(ttft.mean):.2f}",
        f"{mean(ttft.p90):.2f}",
    ]


def _ablations(results: Results) -> str:
    mine = {name.partition("/")[2]: each for name, each in results.items() if name.startswith("ablation/")}
    whole = good_per_cost(mine["everything"])
    rows = [
        [
            name,
            f"{each.cost:,.0f}",
            share_of(each.total.attained_share),
            f"{mean(each.total.ttft_seconds.mean):.2f}",
            f"{mean(each.total.ttft_seconds.p90):.2f}",
            share_of(each.total.remote_share),
            f"{sum(link.gigabytes for link in each.links) / 1e3:.1f}",
            str(sum(each.total.unserved.values())),
            f"{good_per_cost(each) / whole - 1:+.0%}",
            bar(good_per_cost(each), whole * 1.2),
        ]
        for name, each in mine.items()
    ]
    return "\n\n".join(
        (
            "## Ablations: what each part is worth",
            prose(
                "Conversations of three turns with caches, 1.5 requests/s a region, prompts of 2K to 32K",
                "tokens, links of 4 Gbit/s. The last column and the bar are requests in time per money",
                "against everything. Where nothing changes the part had nothing to do here; see below.",
            ),
            table(
                [
                    *("without", "cost", "in time", "TTFT mean s", "P90", "remote", "TB sent", "failed"),
                    *("per money", ""),
                ],
                rows,
            ),
        )
    )


def _parts(results: Results) -> str:
    rows = []
    for part in ("conversion", "anytime KV"):
        for name in ("with", "without"):
            each = results[f"part/{part}/{name}"]
            total = each.total
            rows.append(
                [
                    f"{name} {part}",
                    share_of(total.attained_share),
                    f"{sum(total.unserved.values()):,}",
                    f"{mean(total.ttft_seconds.mean):.1f}",
                    f"{mean(total.ttft_seconds.p99):.1f}",
                    str(each.converted),
                    f"{each.fallbacks.get('TransferSlow', 0):,}",
                    f"{each.cost:,.0f}",
                    bar(total.attained_share or 0, 1.0),
                ]
            )
    return "\n\n".join(
        (
            "## Where conversion and anytime KV have something to do",
            prose(
                "Conversion needs one role to shrink in a plan in which the other grows, in one cluster and",
                "on the same hardware; where both follow the same day it does not happen. Here one cluster",
                "has an hour of documents (1.5 requests/s, 27K tokens) and an hour of chat (6/s, 2K) in",
                "turn, planned every five minutes; an instance takes 60 s to change its role and 300 s to",
                "start. No planner can follow such a step in time: what counts is the difference.",
            ),
            prose(
                "Anytime KV needs transfers that turn out slow after they began; a scheduler that sees its",
                "links sends little over those that are. Here the conversations of above have links that",
                "lose 97 % of their rate for 3 minutes in each 15, and regions learn of links and queues",
                "once a minute. Who leaves a slow transfer has the rest computed at home: that shortens the",
                "longest waits, and costs prefill that others at home wait for.",
            ),
            table(
                [
                    "",
                    "in time",
                    "failed",
                    "TTFT mean s",
                    "P99",
                    "converted",
                    "left a transfer",
                    "cost",
                    "in time",
                ],
                rows,
            ),
        )
    )


def _robust(results: Results) -> str:
    mine = {name.partition("/")[2]: each for name, each in results.items() if name.startswith("robust/")}
    calm = mine["as it should be"]
    rows = [
        [
            name,
            share_of(each.total.attained_share),
            f"{100 * ((each.total.attained_share or 0) - (calm.total.attained_share or 0)):+.1f}",
            f"{mean(each.total.ttft_seconds.p99):.1f}",
            f"{each.cost / calm.cost - 1:+.0%}",
            str(sum(each.total.unserved.values())),
            str(sum(pool.resizes for pool in each.pools)),
            str(each.oscillations),
            bar(each.total.attained_share or 0, 1.0),
        ]
        for name, each in mine.items()
    ]
    return "\n\n".join(
        (
            "## Robustness",
            prose(
                "The last workload of the sensitivity table, shared, by the operator's autoscaler every ten",
                "minutes. A swing is a change of size that takes back one in the other direction within half",
                "an hour, over nine pools and eight hours. The profiles are wrong all the time: nothing",
                "corrects them here, in a cluster they learn. Where queues and links are known by reports",
                "once a minute, a region goes by the last one, by what it has itself sent since, by the time",
                "that has passed, and by what others sent between the last two",
                "([scheduler.md](scheduler.md)). The row that takes reports as they are told is how it",
                "would be without that: everyone is sent to where",
                "nobody was a minute ago.",
            ),
            table(
                [
                    *(
                        "what is wrong",
                        "in time",
                        "points",
                        "TTFT P99 s",
                        "cost",
                        "failed",
                        "resizes",
                        "swings",
                    ),
                    "in time",
                ],
                rows,
            ),
        )
    )
