"""The short-term scheduler: where a prompt is prefilled now, who is served next, and what is refused.

Functions of values: no clock, no chance, no input or output. The gateway asks it for each request, the
simulator for each simulated one, and the operator to judge what was observed.
"""

from prfaas.scheduling.admission import Demand, Refusal, Shed, SloClass, admit
from prfaas.scheduling.anytime import first_kv_patience_seconds
from prfaas.scheduling.believed import BelievedQueue
from prfaas.scheduling.blocks import BlockIndex
from prfaas.scheduling.decision import CacheCopy, Choice, schedule, worth_copying
from prfaas.scheduling.fairness import Claim, FairQueue
from prfaas.scheduling.guard import Guard, GuardRule, watched
from prfaas.scheduling.learned import LearnedPrefill
from prfaas.scheduling.ledger import Estimate, Outcome, Tally, WithError, estimate, merged
from prfaas.scheduling.regime import LinkSample, Regime, RegimeRule, advance
from prfaas.scheduling.views import CompiledCurve, DecodeSide, Link, Producer, Rule, WireSize, Work

__all__ = [
    "BelievedQueue",
    "BlockIndex",
    "CacheCopy",
    "Choice",
    "Claim",
    "CompiledCurve",
    "DecodeSide",
    "Demand",
    "Estimate",
    "FairQueue",
    "Guard",
    "GuardRule",
    "LearnedPrefill",
    "Link",
    "LinkSample",
    "Outcome",
    "Producer",
    "Refusal",
    "Regime",
    "RegimeRule",
    "Rule",
    "Shed",
    "SloClass",
    "Tally",
    "WireSize",
    "WithError",
    "Work",
    "admit",
    "advance",
    "estimate",
    "first_kv_patience_seconds",
    "merged",
    "schedule",
    "watched",
    "worth_copying",
]
