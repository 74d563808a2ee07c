"""What Services mean: from objects to endpoints. Pure: values in, values out. Used by render, explain, agent, lab and cli.

Service ─────── service_ports ─▶ port specs, VIPs ─ vip_conflicts ─┐
EndpointSlice ─ endpoint_slices ─▶ packed states ─┐                ├─ resolver ─▶ ResolvedService ─▶ render
Endpoints ───── endpoints_mirroring ─┘            └─ endpoint_selection ─┘  └─── packet_lookup: packet → answer
Node, configuration ─ node_context ────────────────────┘
"""
