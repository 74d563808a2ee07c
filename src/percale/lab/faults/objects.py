"""Faults of objects: what people write into policies and Services."""

from __future__ import annotations

from percale.lab.faults.fault import Connection, Fault
from percale.lab.faults.world import POLICY, SERVICE

_EGRESS = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client, namespace: game}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
    - to: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 80}]
"""

POLICY_LABEL = Fault(
    number=3,
    seen="no client reaches a web pod any more, on any node",
    mended=(Connection("game/client1", "game/web1"),),
    hints=("percale why game/client1 game/web1 80", "the nearest rule: whom does it allow?"),
    cause="the policy `web` allows pods with the label app=clients, and the clients have app=client",
    manifest=POLICY.replace("app: client", "app: clients"),
)
SELECTOR = Fault(
    number=4,
    seen="the Service web refuses connections, its pods answer",
    mended=(Connection("game/client1", "svc/game/web"),),
    hints=("percale service show game/web", "which pods does it select? percale lab get pods -n game --show-labels"),
    cause="the Service selects app=webb, and the pods have app=web",
    manifest=SERVICE.replace("selector: {app: web}", "selector: {app: webb}"),
)
NO_DNS = Fault(
    number=10,
    seen="clients reach web by its address, and by its name no more",
    mended=(Connection("game/client1", "svc/kube-system/kube-dns", "53/UDP"),),
    hints=(
        "who answers for names? percale why game/client1 svc/kube-system/kube-dns 53/udp",
        "percale lab get netpol -n game",
    ),
    cause="the policy `client` allows egress to web alone, and so no question to the name server",
    manifest=_EGRESS,
    added="networkpolicy client",
)
