"""Whether an object means what the API allows: a manifest's plain value → all that is wrong with it. Called by `decoding`.

msgspec checks types, this checks the rest; what is of the wrong type is passed over here, since msgspec names it.

    field_errors   what an error is, in the API server's words
    formats        names, labels, ports, networks
    shared         metadata and label selectors
    networkpolicy  clusternetworkpolicy
    validators     which kind is checked by which
"""
