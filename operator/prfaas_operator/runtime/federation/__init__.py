"""The edge of `prfaas_operator.federation`: what is asked of the hub, of gateways, and written down."""
