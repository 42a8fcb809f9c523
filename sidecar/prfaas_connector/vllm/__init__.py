"""The plug-in for vLLM: ``kv_connector_module_path: prfaas_connector.vllm``, ``kv_connector:
PrfaasConnector``.

vLLM's connector API is experimental, so everything that touches it lives here, and `support.check_version`
refuses a vLLM that this adapter has not been tested with.
"""

from __future__ import annotations

from prfaas_connector.vllm.connector import PrfaasConnector

__all__ = ["PrfaasConnector"]
