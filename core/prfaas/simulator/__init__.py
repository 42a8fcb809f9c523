"""A discrete-event simulation with the production code in the loop. Needs the extra `simulator`.

The planner, the capacity model, the gateway's routing and the operator's autoscaler decide as they do in a
cluster; requests, instances and links are simulated. No clock, no input or output: the same scenario and seed
give the same result.
"""

from prfaas.simulator.result import DemandResult, LinkResult, PoolResult, Result, Spread
from prfaas.simulator.settings import (
    Bursty,
    Demand,
    Diurnal,
    Failure,
    Network,
    Outputs,
    Poisson,
    Policy,
    PoolDetails,
    RouterKind,
    Sessions,
    Settings,
    Sizing,
    Trace,
    TraceForm,
)
from prfaas.simulator.simulation import Progress, simulate
from prfaas.simulator.traces import Arrival, parsed

__all__ = [
    "Arrival",
    "Bursty",
    "Demand",
    "DemandResult",
    "Diurnal",
    "Failure",
    "LinkResult",
    "Network",
    "Outputs",
    "Poisson",
    "Policy",
    "PoolDetails",
    "PoolResult",
    "Progress",
    "Result",
    "RouterKind",
    "Sessions",
    "Settings",
    "Sizing",
    "Spread",
    "Trace",
    "TraceForm",
    "parsed",
    "simulate",
]
