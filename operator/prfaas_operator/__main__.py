"""`python -m prfaas_operator`."""

from prfaas_operator.command import main

if __name__ == "__main__":
    main(prog_name="python -m prfaas_operator")
