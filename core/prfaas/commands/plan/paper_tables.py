"""The paper's tables and figures by this code, as Markdown: the page docs/results.md."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from prfaas.capacity import Means, OperatingPoint, Wire, equations, paper
from prfaas.planner import Goal, Options, plan
from prfaas.planner.paper import paper_problem

Stopwatch = Callable[[], Callable[[], float]]
"""Makes a clock that shows the seconds since it was made."""

BAR_COLUMNS = 40
PROSE_COLUMNS = 110
BUCKETS = 64
SECONDS_PER_PLAN = 30.0
SWEEP_GBITS = (100, 50, 20, 13, 10, 7, 5, 3, 2, 1)
CODEC = Wire(1.45, 1.45)
DELTA = Wire(1.45, 1.45, held_share=0.5)


def results_page(stopwatch: Stopwatch) -> str:
    """The whole page. Some 40 plans of a few ten milliseconds each; each gets a stopwatch of its own."""
    sections = (
        _head(),
        _table_3(),
        _table_5(),
        _table_6(stopwatch),
        _figure_5(),
        _bandwidth(stopwatch),
        _shadow_prices(stopwatch),
    )
    return "\n\n".join(sections) + "\n"


def _head() -> str:
    return "\n\n".join(
        (
            "# Results: the paper's tables, from this code",
            _prose(
                "Printed by `prfaas plan --paper`, which needs the extra `planner`; a test",
                "compares this page",
                "with it. The paper is arXiv 2604.15039. Its own figures come from its model, not from an",
                "end-to-end run, and so do these: they show that the model is the same, not what",
                "a deployment",
                "will reach.",
            ),
            _prose(
                "Two things the paper does not print are solved from what it does: the prefill",
                "time of the H20,",
                "and the decode batch (`prfaas.capacity.paper` says how). Deviations in percent",
                "are ours against",
                "the paper's.",
            ),
        )
    )


def _table_3() -> str:
    rows = []
    widest = max(values[2] for values in paper.TABLE_3_GBITS_PER_SECOND.values())
    for name, values in sorted(paper.TABLE_3_GBITS_PER_SECOND.items(), key=lambda item: item[1][2]):
        at_32k = values[2]
        egress = equations.egress_needed_bits_per_second(64, at_32k * 1e9 / 8, 1.0) / 1e9
        rows.append([name, *(f"{value:.2f}" for value in values), f"{egress:,.0f}", _bar(at_32k, widest)])
    return "\n\n".join(
        (
            "## Table 3: KV throughput, Gbit/s per instance of eight H200 (published)",
            _prose(
                "Ordered by the value at 32K; egress of 512 GPUs at 32K is Eq. 2. It rises with",
                "length for some",
                "models and falls for others, so 'long prompts remote' is no law: `Routing.BY_BUCKET` plans",
                "without it.",
            ),
            _table(["model", "1K", "8K", "32K", "128K", "egress of 512 GPUs", "at 32K"], rows),
        )
    )


def _table_5() -> str:
    rows = []
    for row in paper.TABLE_5:
        size, seconds = paper.KV.at(row.tokens) / paper.MIB, paper.PREFILL_H200.at(row.tokens)
        phi = equations.kv_throughput_bits_per_second(size * paper.MIB, seconds) / 1e9
        rows.append(
            [
                f"{row.tokens // 1024}K",
                *_beside(size, row.kv_mib, ".1f"),
                *_beside(seconds, row.prefill_seconds, ".2f"),
                *_beside(phi, row.kv_gbits_per_second, ".2f"),
            ]
        )
    return "\n\n".join(
        (
            "## Table 5: the 1T hybrid model on eight H200, fitted",
            _prose(
                "S_kv(l) = 173.9 MiB + 17,280 bytes per token; T_prefill(l) = 0.389 + 4.107e-5·l +",
                "9.476e-11·l² seconds. The last two sizes fit if those rows were 32,000 and",
                "130,000 tokens long.",
            ),
            _table(["length", "S_kv MiB", "paper", "%", "T s", "paper", "%", "Φ Gbit/s", "paper", "%"], rows),
        )
    )


def _table_6(stopwatch: Stopwatch) -> str:
    system = paper.two_site()
    served = paper.two_site(remote_prefill=paper.PREFILL_H200_TABLE)
    alone = paper.two_site(remote_instances=0, local_instances=12)
    points: list[tuple[OperatingPoint, float]] = [
        (system.at(19_400, 3), 19_400.0),
        (alone.best_without_threshold(everything_remote=False), float("inf")),
        (system.best_without_threshold(everything_remote=True), 0.0),
    ]
    rows = []
    for published, (point, _) in zip(paper.TABLE_6, points, strict=True):
        rows.append(
            [
                published.name,
                f"{point.remote_instances} / {point.local_prefill_instances} / {point.decode_instances}",
                *_beside(point.remote_prefill or None, published.remote_prefill, ".2f"),
                *_beside(point.local_prefill or None, published.local_prefill, ".2f"),
                *_beside(point.decode, published.decode, ".2f"),
                *_beside(point.throughput, published.throughput, ".2f"),
            ]
        )
    ttft = [
        [
            published.name,
            *_beside(served.mean_service_seconds(threshold), published.ttft_mean_seconds, ".2f"),
            *_beside(served.service_seconds_quantile(threshold, 0.9), published.ttft_p90_seconds, ".2f"),
        ]
        for published, (_, threshold) in zip(paper.TABLE_6, points, strict=True)
    ]
    best = system.best()
    planned = plan(paper_problem(), _most(), elapsed_seconds=stopwatch())
    decode = planned.decode_pools[0]
    sizes = {pool.name: pool.instances for pool in planned.pools}
    optimum = [
        ["paper", "19.4", "4 / 3 / 5", "3.24", "49.6", "~13"],
        [
            "Eq. 6 at the mean lengths",
            f"{best.threshold_tokens / 1e3:.1f}",
            f"{best.remote_instances} / {best.local_prefill_instances} / {best.decode_instances}",
            f"{best.throughput:.2f}",
            f"{100 * best.remote_share:.1f}",
            f"{best.egress_bits_per_second / 1e9:.1f}",
        ],
        [
            "planner, exact means",
            f"{(decode.threshold_tokens or 0) / 1e3:.1f}",
            f"{sizes['h200']} / {sizes['h20-prefill']} / {sizes['h20-decode']}",
            f"{planned.factor:.2f}",
            f"{100 * decode.remote_share:.1f}",
            f"{planned.links[0].bits_per_second / 1e9:.1f}",
        ],
    ]
    over_homogeneous = planned.factor / paper.TABLE_6[1].throughput
    over_naive = planned.factor / paper.TABLE_6[2].throughput
    return "\n\n".join(
        (
            "## Table 6: the three systems",
            _prose(
                "Stage throughputs in requests per second, at the published threshold and sizes,",
                "by the paper's",
                "method.",
            ),
            _table(
                [
                    *("system", "N_prfaas / N_p / N_d", "Θ_prfaas", "paper", "%", "Θ_pd-p", "paper", "%"),
                    *("Θ_pd-d", "paper", "%", "Λ_max", "paper", "%"),
                ],
                rows,
            ),
            "Time to first token in seconds: bare prefill time, table 5 joined by straight lines.",
            _table(["system", "mean", "paper", "%", "P90", "paper", "%"], ttft),
            _prose(
                "The naive mean is 3.1 % low: the published figure holds about 0.05 s that is",
                "not prefill. The",
                "others leave no room for queueing, although the paper's text credits it.",
            ),
            "The optimum, searched for:",
            _table(
                ["by", "t, K tokens", "N_prfaas / N_p / N_d", "Λ_max", "remote %", "egress Gbit/s"], optimum
            ),
            _prose(
                "The mean lengths promise too much because T_prefill is convex; the exact means",
                "of the planner's",
                "buckets give the published value. Against the published homogeneous system that is",
                f"{over_homogeneous:.2f} times the throughput (paper 1.54), against the naive one",
                f"{over_naive:.2f} (paper 1.32).",
            ),
        )
    )


def _figure_5() -> str:
    system = paper.two_site(means=Means.EXACT)
    left = [system.at(19_400, count) for count in range(1, 8)]
    right = [system.at(threshold, 3) for threshold in range(4_000, 60_001, 4_000)]
    top = max(point.throughput for point in (*left, *right))
    return (
        "## Figure 5: throughput around the optimum\n\n"
        "Λ_max over N_p with t = 19.4K (N_p + N_d = 8), and over t with N_p = 3; exact means.\n\n```text\n"
        + _chart([(f"N_p {point.local_prefill_instances}", point) for point in left], top)
        + "\n\n"
        + _chart([(f"t {point.threshold_tokens / 1e3:.0f}K", point) for point in right], top)
        + "\n```"
    )


def _bandwidth(stopwatch: Stopwatch) -> str:
    rows = []
    for gigabits in SWEEP_GBITS:
        bits = gigabits * 1e9
        theirs = paper.two_site(egress_bits_per_second=bits).best()
        planned = [
            plan(
                paper_problem(egress_bits_per_second=bits, wire=wire, prefill_hit_share=hits),
                _most(),
                elapsed_seconds=stopwatch(),
            )
            for wire, hits in ((Wire(), 0.0), (CODEC, 0.0), (DELTA, 0.0), (DELTA, 0.5))
        ]
        threshold = planned[0].decode_pools[0].threshold_tokens
        rows.append(
            [
                str(gigabits),
                f"{theirs.throughput:.2f}",
                f"{theirs.threshold_tokens / 1e3:.1f}",
                *(f"{each.factor:.2f}" for each in planned),
                "-" if threshold is None else f"{threshold / 1e3:.1f}",
                _bar(planned[2].factor, 4.0),
            ]
        )
    return "\n\n".join(
        (
            "## Bandwidth: what a narrower link costs, and what codec and delta transfer buy back",
            _prose(
                "Requests per second, with the best t and sizes for each bandwidth. The codec is",
                "lossless with",
                "1.45 on everything; with the delta half of each prompt's tokens is at the",
                "decode side already",
                "(state is always sent whole); hits on both sides save half of the prefill too. The planner",
                "without a codec is below Eq. 6 only where the mean lengths of Eq. 6 promise too",
                "much: with the",
                "same exact means both are equal. The bars show the delta.",
            ),
            _table(
                [
                    "Gbit/s",
                    "Eq. 6",
                    "its t",
                    "planner",
                    "codec",
                    "+ delta",
                    "+ hits",
                    "planner's t",
                    "+ delta",
                ],
                rows,
            ),
        )
    )


def _shadow_prices(stopwatch: Stopwatch) -> str:
    lines = []
    for gigabits in (100, 10, 5):
        found = plan(
            paper_problem(egress_bits_per_second=gigabits * 1e9), _most(), elapsed_seconds=stopwatch()
        )
        lines.append(f"At {gigabits} Gbit/s:\n")
        lines += [f"- {binding.sentence}" for binding in found.bindings]
        lines.append("")
    return "## What binds\n\nThe planner's sentences, with its shadow prices.\n\n" + "\n".join(lines).rstrip()


def _most() -> Options:
    return Options(goal=Goal.MOST_SERVED, buckets=BUCKETS, time_limit_seconds=SECONDS_PER_PLAN)


def _chart(points: Sequence[tuple[str, OperatingPoint]], top: float) -> str:
    return "\n".join(
        f"{label:>6}  {point.throughput:4.2f}  "
        f"{_bar(point.throughput, top):{BAR_COLUMNS}}  {point.binding.value}"
        for label, point in points
    )


def _prose(*lines: str) -> str:
    """A paragraph, filled to the width of the other pages."""
    return textwrap.fill(" ".join(lines), PROSE_COLUMNS, break_long_words=False, break_on_hyphens=False)


def _bar(value: float, top: float) -> str:
    return "█" * max(1, round(BAR_COLUMNS * min(value, top) / top))


def _beside(ours: float | None, published: float | None, form: str) -> list[str]:
    if ours is None or published is None:
        return ["-", "-", ""]
    return [f"{ours:{form}}", f"{published:{form}}", f"{round(100 * (ours / published - 1), 1) + 0.0:+.1f}"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
