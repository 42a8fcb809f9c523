"""What the Helm chart is generated from: its values, and what each part may do in a cluster.

`python -m prfaas.chart` writes the generated files of `charts/prfaas`, with `--check` it compares them.
"""
