"""The Kubernetes store: objects of a cluster's API server, subnet leases as annotations of Nodes.

address ─▶ kubeconfig, service account ─▶ ClusterAccess ─▶ Credentials ─▶ ApiClient ─┬─▶ KubernetesStore: list, get, put, delete
                                                                                  └─▶ ListWatch ─▶ KindCache ─▶ events
"""
