"""Reports mistakes in valid policies: manifest entries to findings, each with a hint. `percale policy check` calls it.

ManifestEntry … ─▶ compiled policies (`policy/kinds`) ─┐
               └─▶ inventory: pods, namespaces ────────┴─▶ selectors  ip_blocks  no_effect  dns  shadowing ─▶ LintFinding …
finding      what a finding is;   containment   one selector, peer, port or rule within another
linter       all checks
"""
