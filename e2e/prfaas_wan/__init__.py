"""An emulated WAN between network namespaces."""
