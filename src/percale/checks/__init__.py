"""Checks of a host: what is wrong, by what it was seen, what to type. `percale preflight` makes them before an installation.

check.py        Check, Outcome: the form of all of them
host.py         Host: what checks look at, read once
registry.py     all checks, in the order in which they are shown
kernel_features.py settings.py underlay.py filters.py others.py lab.py
                the checks, by what they look at
"""
