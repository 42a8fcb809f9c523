"""What a cluster of a federation decides: what to mirror, report, add up and believe. Values in, values out.

Nothing here asks for the time, reads a file or knows a client; `prfaas_operator.runtime.federation` does.
"""
