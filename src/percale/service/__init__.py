"""What Services mean: objects to choices. Pure: values in, values out. Used by render, explain, agent, lab and cli.

Service ───────── services ─▶ port specs, VIPs ── claiming ─┐
EndpointSlice ─── endpoints ─▶ packed states ─┐             ├─ table ─▶ ResolvedService ─▶ render
Endpoints ─ mirroring ─┘                      └─ choosing ──┘     └──── resolving: packet → answer
Node, configuration ─ surroundings ───────────────┘

publishing, allocating, validating: the part of Kubernetes' controllers and API server, for the lab.
"""
