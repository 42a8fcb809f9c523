"""Sizes, thresholds and flows for any number of pools and links. Needs the extra `planner`.

Functions of values: no clock, no randomness, no input or output.
"""

from prfaas.planner.plan import (
    Binding,
    BindingKind,
    Conflict,
    DecodePlan,
    Flow,
    LinkUse,
    Plan,
    PoolPlan,
    Standing,
    in_force,
)
from prfaas.planner.planner import plan
from prfaas.planner.problem import (
    Cluster,
    DecodePool,
    Goal,
    Instances,
    Link,
    Options,
    PrefillPool,
    Problem,
    Quota,
    Region,
    Residency,
    Route,
    Routing,
)
from prfaas.planner.routes import ExcludedRoute, direct_routes
from prfaas.planner.solve import PlanTimeoutError

__all__ = [
    "Binding",
    "BindingKind",
    "Cluster",
    "Conflict",
    "DecodePlan",
    "DecodePool",
    "ExcludedRoute",
    "Flow",
    "Goal",
    "Instances",
    "Link",
    "LinkUse",
    "Options",
    "Plan",
    "PlanTimeoutError",
    "PoolPlan",
    "PrefillPool",
    "Problem",
    "Quota",
    "Region",
    "Residency",
    "Route",
    "Routing",
    "Standing",
    "direct_routes",
    "in_force",
    "plan",
]
