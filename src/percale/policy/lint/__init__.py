"""Reports mistakes in valid policies: manifest entries to findings, each with a hint. `percale policy check` calls it.

ManifestEntry … ─▶ compiled policies (`policy/kinds`) ─┐
               └─▶ inventory: pods, Services, … ───────┴─▶ namespaces  selectors  ports  … ─▶ LintFinding …
finding      what a finding is;   containment   one selector, peer, port or rule within another
linter       all checks
"""
