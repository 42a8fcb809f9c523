"""The promised figures: on the reference workload, and where they hold and stop as one thing changes."""

from __future__ import annotations

from dataclasses import dataclass

from prfaas.capacity.lengths import mean_length
from prfaas.commands.evidence import workloads as made
from prfaas.commands.evidence.runs import ALONE_SAME_SPEND, BASE, CASES, MODERATE, OVERLOADED, baseline_of
from prfaas.commands.evidence.text import (
    Results,
    bar,
    good_per_cost,
    less,
    mean,
    percent,
    prose,
    share_of,
    table,
    times,
    yes,
)
from prfaas.simulator import Result

LATENCY, PER_DOLLAR, IDLE, NIGHTS = 0.40, 3.0, 0.50, 0.28
THROUGHPUT, TTFT = 1.54, 0.50


@dataclass(frozen=True, slots=True)
class Against:
    """What shared is worth beside one way to serve the same.

    Attributes:
        latency: saved share of the mean time to the last token, of those that got one.
        per_money: times as many requests in time for the same money.
        idle: saved share of the idle share of decode slots.
        cost: saved share of the money spent.
        service: points more of requests in time.
    """

    latency: float
    per_money: float
    idle: float
    cost: float
    service: float

    @classmethod
    def of(cls, shared: Result, other: Result) -> Against:
        return cls(
            1 - mean(shared.total.total_seconds.mean) / mean(other.total.total_seconds.mean),
            good_per_cost(shared) / max(good_per_cost(other), 1e-9),
            1 - (shared.decode_idle_share or 0) / (other.decode_idle_share or 1),
            1 - shared.cost / other.cost,
            (shared.total.attained_share or 0) - (other.total.attained_share or 0),
        )


def ways(results: Results, case: str) -> dict[str, Result]:
    """By what the tables call them; shared first."""
    own = baseline_of(case)
    found = {
        "shared": results[f"{case}/shared"],
        "static, same spend": results[f"{case}/static, same spend"],
        "static, for its peak": results[f"{own}/static"],
        "alone": results[f"{own}/alone"],
    }
    if case in ALONE_SAME_SPEND:
        found["alone, same spend"] = results[f"{case}/alone, same spend"]
    return found


def figures(results: Results, case: str) -> dict[str, Against]:
    """Shared against each of the others."""
    found = ways(results, case)
    return {name: Against.of(found["shared"], each) for name, each in found.items() if name != "shared"}


def head() -> str:
    """What is simulated."""
    lengths = BASE.lengths
    tokens = mean_length(lengths, lengths.min_tokens, lengths.max_tokens)
    return "\n\n".join(
        (
            "# Results: simulated",
            prose(
                "Printed by `prfaas evidence`, which needs the extra `simulator`; `--write` puts it here.",
                "Everything is simulated by [prfaas.simulator](simulator.md) with the production planner,",
                "scheduler, policy and autoscaler in the loop. Hardware and model are the paper's, so no",
                "figure here is a measurement of a cluster.",
            ),
            "## The reference workload",
            prose(
                "Agents and documents: long prompts, answers of middle length, all day, in three regions",
                f"eight hours apart. {BASE.mean_per_second:g} requests per second and region on average,",
                f"{1 / BASE.trough_share:.0f} times as many at the peak (14 o'clock) as at the lowest, a",
                f"cosine. Prompts are the paper's, log-normal with a mean of {tokens / 1000:.0f}K tokens,",
                f"answers geometric with a mean of {BASE.output_tokens:.0f}: as many prompt tokens to one of",
                "the answer as in the published Mooncake trace (on average 7,590 to 182, arXiv 2407.00079,",
                "section 4.2); 40 tokens a second. Every region may have slow (H20, 12 an hour) and fast",
                "(H200, 2.02 times that, the paper's equal-cost ratio) instances, 300 s to start one, at",
                "most 80 of each. Between 22 and 8 o'clock of its region every instance costs",
                f"{BASE.night_share:g} of the day's price: capacity that can be interrupted, at the lesser",
                "end of the discount of 60 to 91 % that a large cloud states for it. Links of",
                f"{BASE.gigabits:g} Gbit/s between all regions, a codec of 1.3, no price for egress.",
                "The objective is a first token within",
                f"{made.TTFT_SECONDS:.0f} s; who waits two minutes for a turn has failed. With equal regions",
                "eight hours show all hours of a day. The same prices by the hour hold for everybody:",
            ),
            "- *shared*: both kinds of hardware in each region, links between them, sized by the planner\n"
            f"  every {made.REPLAN_SECONDS / 60:.0f} minutes with {percent(made.HEADROOM)} headroom: prefill"
            " wherever it is cheapest\n"
            "- *static, same spend*: single-region serving for the money that shared spends: as many slow\n"
            "  instances as it buys, all day, each region dividing its own best between the two roles\n"
            "- *alone, same spend*: each region for itself, both kinds of hardware, sized by the planner as\n"
            "  often, told of so much less demand that it costs what shared costs\n"
            "- *static, for its peak*: the former with as many instances as each region's peak needs\n"
            "- *alone*: the third with the same headroom as shared, whatever it costs",
        )
    )


def promises(results: Results) -> str:
    """Each promise on the reference workload, against every way to serve it."""
    mine, found = figures(results, "reference"), ways(results, "reference")
    rows = []
    for name, each in found.items():
        total = each.total
        rows.append(
            [
                name,
                f"{each.cost:,.0f}",
                share_of(total.attained_share),
                f"{sum(total.unserved.values()):,}",
                f"{mean(total.ttft_seconds.mean):.1f}",
                f"{mean(total.total_seconds.mean):.1f}",
                percent(each.decode_idle_share or 0),
                bar(good_per_cost(each), good_per_cost(found["shared"])),
            ]
        )
    return "\n\n".join(
        (
            prose(
                "Money spent in eight hours; requests in time; failed; mean times to the first and to the",
                "last token in seconds, of those that got one; idle decode slots; the bar is requests in",
                "time per money.",
            ),
            table(
                ["way", "spent", "in time", "failed", "TTFT", "latency", "idle", "in time per money"], rows
            ),
            "## The five promised figures",
            table(
                ["figure", "promised", *list(mine), "at equal spend"],
                [
                    *_four(mine),
                    *_of_the_paper(results),
                ],
            ),
            prose(
                "At equal spend single regions are overloaded for hours: what these columns say is that the",
                "money does not buy enough there. How much less money buys the same service is what the",
                "columns of static for its peak and of alone say, and they are the soberer ones.",
            ),
            _conditions(results),
        )
    )


def _four(mine: dict[str, Against]) -> list[list[str]]:
    equal = mine["static, same spend"]
    others = list(mine.values())
    peak = mine["static, for its peak"]
    return [
        ["latency", "-40 %", *(less(each.latency) for each in others), yes(equal.latency >= LATENCY)],
        [
            "requests in time per money",
            "3x",
            *(times(each.per_money) for each in others),
            yes(equal.per_money >= PER_DOLLAR),
        ],
        [
            "idle decode slots",
            "-50 %",
            *(less(each.idle) for each in others),
            f"{yes(equal.idle >= IDLE)}; at equal service: {yes(peak.idle >= IDLE)}",
        ],
        [
            "cost by idle regions",
            "-28 %",
            *(less(each.cost) for each in others),
            f"at equal service: {yes(mine['alone'].cost >= NIGHTS)}",
        ],
    ]


def _of_the_paper(results: Results) -> list[list[str]]:
    throughput, ttft, _ = paper_figures(results, "")
    return [
        [
            "the paper's system: throughput, and mean time to first token",
            "1.54x, -50 %",
            f"{throughput:.2f}x, {less(ttft)}",
            *["" for _ in range(len(figures(results, "reference")) - 1)],
            yes(throughput >= THROUGHPUT * 0.995 and ttft >= TTFT),
        ]
    ]


def _conditions(results: Results) -> str:
    """In words, for what each promise needs; the cases are looked up."""
    found = {case: figures(results, case) for case in CASES}

    def where(other: str, figure: str, least: float) -> str:
        held = {case: getattr(each[other], figure) >= least for case, each in found.items()}
        good = [case for case, holds in held.items() if holds]
        bad = [case for case, holds in held.items() if not holds]
        if not bad:
            return "in every case below"
        return f"with {'; '.join(good)}" if len(good) <= len(bad) else f"but not with {'; '.join(bad)}"

    mine = found["reference"]
    same, peak, own = "static, same spend", "static, for its peak", "alone"
    lines = [
        (
            "Latency",
            f"at equal spend holds {where(same, 'latency', LATENCY)}. A static fleet for this money is short",
            "of instances for hours, and its requests wait or fail. Against a fleet that is never short it",
            f"cannot hold: decoding takes {BASE.output_tokens * 0.025:.0f} s whoever prefills; there it is",
            f"{less(mine[peak].latency)}, and",
            f"{less(mine[own].latency)} against regions alone.",
        ),
        (
            "Requests in time per money",
            f"at equal spend hold {where(same, 'per_money', PER_DOLLAR)};",
            f"against a static fleet for its peak they hold {where(peak, 'per_money', PER_DOLLAR)}. That is",
            "bounded by how far the load swings (1.67 between mean and peak) times what better hardware",
            "gives (the paper's equal-cost gain is 1.15) times what prices differ by.",
        ),
        (
            "Idle decode slots",
            f"against a static fleet for its peak hold {where(peak, 'idle', IDLE)}. Pools of a few instances",
            "lose what is gained to whole instances, and flat load leaves nothing to gain. A fleet that is",
            f"too small all day is not idle either: at equal spend it is {less(mine[same].idle)}.",
        ),
        (
            "Cost by idle regions",
            f"against regions alone holds {where(own, 'cost', NIGHTS)}. What another region saves is what",
            "its prices differ by, on the part of the cost that is prefill.",
        ),
    ]
    return "\n".join("- " + prose(f"**{what}**", *said).replace("\n", "\n  ") for what, *said in lines)


def sensitivity(results: Results) -> str:
    """The figures as one thing changes."""
    rows = []
    best = max(figures(results, case)["static, for its peak"].per_money for case in CASES)
    for case in CASES:
        found, shared = figures(results, case), results[f"{case}/shared"]
        same, peak, own = found["static, same spend"], found["static, for its peak"], found["alone"]
        rows.append(
            [
                case,
                f"{mean(shared.cost_per_1000):.1f}",
                share_of(shared.total.attained_share),
                f"{mean(shared.total.ttft_seconds.mean):.1f}",
                share_of(shared.total.remote_share),
                share_of(ways(results, case)["static, same spend"].total.attained_share),
                less(same.latency),
                times(same.per_money),
                less(peak.latency),
                times(peak.per_money),
                less(peak.idle),
                share_of(ways(results, case)["alone"].total.attained_share),
                less(own.cost),
                bar(peak.per_money, best),
            ]
        )
    return "\n\n".join(
        (
            "## Where they hold and where they stop",
            prose(
                "Each row changes the reference in what it says. Shared: cost per 1,000 requests, requests",
                "in time, mean time to first token in seconds, and what part is prefilled in another",
                "region. Then shared against static at the same spend (its requests in time; latency;",
                "requests in time per money), against static for its peak (latency; per money, also the",
                "bar; idle decode slots) and against alone (its requests in time; cost).",
            ),
            table(
                [
                    *("workload", "cost", "in time", "TTFT", "remote"),
                    *("same spend: in time", "latency", "per money"),
                    *("peak: latency", "per money", "idle"),
                    *("alone: in time", "cost", ""),
                ],
                rows,
            ),
        )
    )


def paper_figures(results: Results, label: str) -> tuple[float, float, float]:
    """Throughput over the homogeneous baseline's; mean and P90 of the time to first token saved."""
    fast, slow = results[f"paper/prfaas{label} {OVERLOADED}"], results[f"paper/homogeneous {OVERLOADED}"]
    calm, base = results[f"paper/prfaas{label} {MODERATE}"], results[f"paper/homogeneous {MODERATE}"]
    return (
        fast.served_per_second / slow.served_per_second,
        1 - mean(calm.total.ttft_seconds.mean) / mean(base.total.ttft_seconds.mean),
        1 - mean(calm.total.ttft_seconds.p90) / mean(base.total.ttft_seconds.p90),
    )
