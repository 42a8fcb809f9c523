"""prfaas: Prefill-as-a-Service. The domain: models, planner, policies, command line."""

__version__ = "0.1.0.dev0"
