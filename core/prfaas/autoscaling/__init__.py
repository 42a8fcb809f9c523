"""The autoscaler: sizes of pools by load, objectives, links, prices and room, as a function of values.

`decide` is what the operator and the simulator call. No clock, no chance, no input or output; the planner
(extra `planner`) is imported only when a group of pools can be planned.
"""

from prfaas.autoscaling.decide import decide
from prfaas.autoscaling.decision import (
    PASSING,
    Cause,
    Conversion,
    Decision,
    Input,
    Limit,
    LoadOffer,
    PoolDecision,
)
from prfaas.autoscaling.forecast import Forecaster, ForecastSettings, SeasonalNaive
from prfaas.autoscaling.observation import (
    Arrivals,
    Attainment,
    LinkObservation,
    LinkState,
    Load,
    Observation,
    PoolObservation,
    Profile,
    Quota,
    Role,
    RouteObservation,
    Shortage,
    Waiting,
)
from prfaas.autoscaling.settings import PoolSettings, Settings
from prfaas.autoscaling.signals import SignalEntry, Signals, parse_signals
from prfaas.autoscaling.state import PoolState, State

__all__ = [
    "PASSING",
    "Arrivals",
    "Attainment",
    "Cause",
    "Conversion",
    "Decision",
    "ForecastSettings",
    "Forecaster",
    "Input",
    "Limit",
    "LinkObservation",
    "LinkState",
    "Load",
    "LoadOffer",
    "Observation",
    "PoolDecision",
    "PoolObservation",
    "PoolSettings",
    "PoolState",
    "Profile",
    "Quota",
    "Role",
    "RouteObservation",
    "SeasonalNaive",
    "Settings",
    "Shortage",
    "SignalEntry",
    "Signals",
    "State",
    "Waiting",
    "decide",
    "parse_signals",
]
