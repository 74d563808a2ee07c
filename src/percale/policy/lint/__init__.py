"""What people get wrong in policies that are valid: objects → remarks, each with what to do. `percale policy check` calls it.

    ManifestEntry … ─▶ shapes     both kinds of policy in one form, every part with the field it stands in
            └▶ holdings   the pods, namespaces and pod networks that the manifests hold
    shapes, holdings ─▶ selecting  blocks  effects  dns  shadowing ─▶ LintFinding …
    remarks   what a remark is;   containment   one selector, peer, port or rule within another
    checking  all checks

It looks at policies as they are written, one beside the other; the evaluator decides on flows, and does not know fields.
"""
