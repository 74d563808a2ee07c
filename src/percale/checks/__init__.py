"""Checks of a host: what is wrong, by what it was seen, what to type.

`percale preflight` makes those of a host before an installation, `percale doctor` those of a host and its agent.

check.py        Check, Outcome: the form of all of them
host.py         Host: what checks look at, read once; stored_objects.py: of the agent's store
registry.py     all checks, in the order in which they are shown
commands.py     what to type, by how the agent is installed
kernel_features.py clock.py sysctls.py underlay.py filters.py others.py lab.py
                a host's checks, by what they look at
agent.py node_state.py peers.py leases.py services.py limits.py
                those of a running node
support_bundle.py redaction.py
                what a bug report needs of it, without secrets: `percale support`
"""
