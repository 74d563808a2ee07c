"""The BGP backend: routes between nodes, and to routers outside, by BIRD 2.

BGPConfiguration, BGPPeer, BGPFilter ─┐
nodes, leases, Services ──────────────┴─▶ speaker ─▶ bird_config (text) ─▶ bird_process ─▶ BIRD ─▶ kernel table
                                                                                                      │
                                        main table ◀─ declare("bgp/PREFIX") ◀─ kernel/rtnl/table_follower
"""
