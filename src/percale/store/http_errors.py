"""Why a server cannot be reached, in the words of the kernel or of TLS, without those of the client library in between."""

from __future__ import annotations


def cause(error: Exception) -> str:
    inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    return getattr(inner, "verify_message", None) or getattr(inner, "strerror", None) or str(inner) or repr(inner)
