"""Faults that `percale lab break` makes, for somebody who learns to find them.

fault.py    Fault: what is done, how it is seen whether it is mended
world.py    the pods, Service and policies that are played with
network.py objects.py
            the faults, by where they are
registry.py all of them, by number
"""
