"""Validates a manifest's plain value as the API server does. Called by `manifest/decode.py`.

msgspec checks types; values of a wrong type are skipped here.

    field_errors   errors in the API server's words
    formats        names, labels, ports, networks
    shared         metadata and label selectors
    networkpolicy  clusternetworkpolicy
    validators     the validator of each kind
"""
