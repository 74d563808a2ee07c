"""An Ingress: the Service for each host name and path."""

from __future__ import annotations

from typing import ClassVar, Literal

from percale.model.meta import Integer, Object, Part


class ServiceBackendPort(Part, frozen=True, kw_only=True):
    """A name or a number."""

    name: str | None = None
    number: Integer | None = None


class IngressServiceBackend(Part, frozen=True, kw_only=True):
    """A Service of the Ingress' namespace."""

    name: str
    port: ServiceBackendPort = ServiceBackendPort()


class IngressBackend(Part, frozen=True, kw_only=True):
    """None: a resource of another kind."""

    service: IngressServiceBackend | None = None


class HTTPIngressPath(Part, frozen=True, kw_only=True):
    backend: IngressBackend
    pathType: Literal["Exact", "Prefix", "ImplementationSpecific"]
    path: str | None = None


class HTTPIngressRuleValue(Part, frozen=True, kw_only=True):
    """The paths of a host."""

    paths: tuple[HTTPIngressPath, ...]


class IngressRule(Part, frozen=True, kw_only=True):
    """Without `host`: for all hosts."""

    host: str | None = None
    http: HTTPIngressRuleValue | None = None


class IngressTLS(Part, frozen=True, kw_only=True):
    """The Secret with the certificate of these hosts."""

    hosts: tuple[str, ...] = ()
    secretName: str | None = None


class IngressSpec(Part, frozen=True, kw_only=True):
    """`ingressClassName` selects the controller."""

    ingressClassName: str | None = None
    defaultBackend: IngressBackend | None = None
    rules: tuple[IngressRule, ...] = ()
    tls: tuple[IngressTLS, ...] = ()


class Ingress(Object, frozen=True, kw_only=True):
    """Decoded and listed; not served yet."""

    API_VERSION: ClassVar[str] = "networking.k8s.io/v1"
    KIND: ClassVar[str] = "Ingress"
    PLURAL: ClassVar[str] = "ingresses"

    spec: IngressSpec = IngressSpec()
