"""Where a prompt is prefilled: the routing policy, a function of values. No clock, no socket, no engine.

The gateway asks it per request; a planner that wants to know what a threshold would do asks it too.
"""

from prfaas.routing.policy import Advice, Conditions, Decision, Mode, Prompt, Reason, Route, decide, in_canary

__all__ = ["Advice", "Conditions", "Decision", "Mode", "Prompt", "Reason", "Route", "decide", "in_canary"]
