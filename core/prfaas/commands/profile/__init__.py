"""`prfaas profile`: measures a running engine and writes a ModelKVProfile."""
