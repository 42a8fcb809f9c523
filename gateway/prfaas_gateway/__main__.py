"""`python -m prfaas_gateway`."""

from prfaas_gateway.command import main

if __name__ == "__main__":
    main(prog_name="python -m prfaas_gateway")
