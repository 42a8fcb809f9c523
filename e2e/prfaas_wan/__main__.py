from prfaas_wan.command import wan

wan(prog_name="python -m prfaas_wan")
