"""A web server on one node, a friend and a stranger on another."""

PODS = """\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: node1, containers: [{name: main, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: friend, labels: {access: "true"}}
spec: {nodeName: node2, containers: [{name: main, image: busybox}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec: {nodeName: node2, containers: [{name: main, image: busybox}]}
"""
