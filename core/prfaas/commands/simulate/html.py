"""The report: one HTML file with everything in it. Nothing is fetched, nothing is executed."""

from __future__ import annotations

from html import escape

from prfaas.commands.simulate.svg import Line, chart
from prfaas.commands.simulate.text import screen
from prfaas.simulator import Result
from prfaas.simulator.result import CDF_SHARES

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#111}
h1{font-size:1.4rem} h2{font-size:1rem;margin:.2rem 0}
pre{background:#f6f7f9;padding:1rem;overflow-x:auto;font-size:12.5px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));gap:1.2rem}
svg{width:100%;height:auto} svg text{font-size:11px;fill:#444}
text.y{text-anchor:end} text.x{text-anchor:middle}
.grid{stroke:#e3e5e8} .line{fill:none;stroke-width:1.6}
.legend{font-size:12px} .legend span{margin-right:.9rem;white-space:nowrap}
.legend i{display:inline-block;width:.8rem;height:.2rem;margin-right:.3rem;vertical-align:middle}
@media(prefers-color-scheme:dark){body{background:#14161a;color:#e5e7eb}pre{background:#1d2026}
svg text{fill:#b6bac2}.grid{stroke:#2c3038}}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def report(result: Result, title: str) -> str:
    """The whole page."""
    sections = "".join(
        f"<section><h2>{escape(name)}</h2>{drawing}</section>" for name, drawing in _charts(result)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<pre>{escape(screen(result))}</pre><div class="charts">{sections}</div></body></html>\n'
    )


def _charts(result: Result) -> list[tuple[str, str]]:
    series = result.series
    hours = [at / 3600 for at in series.at_seconds]
    cdf = [
        Line(each.name, each.ttft_seconds.cdf[:-2], [100 * share for share in CDF_SHARES[:-2]])
        for each in ([result.total, *result.demand] if len(result.demand) > 1 else result.demand)
        if each.ttft_seconds.cdf
    ]

    def over_time(lines: dict[str, list[float]], unit: str, *, steps: bool = False) -> str:
        return chart(
            [Line(name, hours, values, steps) for name, values in lines.items()],
            x_label="hours",
            y_label=unit,
        )

    pools = series.pools
    return [
        ("Time to first token, distribution", chart(cdf, x_label="seconds", y_label="percent of requests")),
        ("Time to first token, mean over time", over_time({"all": series.ttft_seconds}, "seconds")),
        (
            "Instances ready",
            over_time(
                {name: [float(n) for n in row.ready] for name, row in pools.items()}, "instances", steps=True
            ),
        ),
        (
            "Utilisation",
            over_time(
                {name: [100 * u for u in row.utilisation] for name, row in pools.items()}, "percent busy"
            ),
        ),
        (
            "Egress",
            over_time(
                {name: [bits / 1e9 for bits in row] for name, row in series.link_bits_per_second.items()},
                "Gbit/s",
            ),
        ),
        ("Cost", over_time({"all": series.cost_per_hour}, "per hour")),
        ("Arrivals", over_time({"all": series.arrivals_per_second}, "requests/s")),
        (
            "Waiting",
            over_time({name: [float(n) for n in row.queued] for name, row in pools.items()}, "requests"),
        ),
        ("Thresholds", over_time(dict(series.threshold_tokens), "tokens")),
    ]
