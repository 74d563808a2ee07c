"""`percale lab get`, `apply`, `delete`, `scale`, `label`: the cluster's objects, as kubectl would."""

from __future__ import annotations

import json
from typing import Any

import click

from percale.cli.options import lab_option, namespace_option, validate_option, validation
from percale.text_columns import table


@click.command(short_help="Show objects: pods, nodes, deployments, …")
@click.argument("kind")
@click.argument("name", required=False)
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True, help="Objects of all namespaces.")
@click.option(
    "-o", "--output", type=click.Choice(["wide", "json", "yaml", "name"]), help="Another form than the table."
)
@click.option("-l", "--selector", metavar="K=V,…", help="Only objects with these labels.")
@lab_option
def get(
    *,
    kind: str,
    name: str | None,
    namespace: str | None,
    all_namespaces: bool,
    output: str | None,
    selector: str | None,
    lab: str,
) -> int:
    """Show objects: pods, nodes, deployments, services, networkpolicies, subnetleases, …

    Without -n all of the namespace `default`; where that has none, -A shows the others.
    """
    kind, _, part = kind.partition("/")
    answer = _ask(
        lab,
        "get",
        kind=kind,
        name=name or part or None,
        namespace=namespace,
        everywhere=all_namespaces,
        wide=output == "wide",
        selector=selector or "",
    )
    if output in ("json", "yaml"):
        objects: list[Any] = answer["objects"]
        document = objects[0] if name or part else {"apiVersion": "v1", "kind": "List", "items": objects}
        click.echo(_as_text(document, output), nl=output == "json")
    elif output == "name":
        click.echo("\n".join(answer["names"]))
    elif len(answer["rows"]) > 1:
        click.echo(table(answer["rows"]))
    else:
        click.echo(answer["nothing"], err=True)
    return 0


def _as_text(document: Any, form: str) -> str:
    if form == "json":
        return json.dumps(document, indent=2)
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, default_flow_style=False)
    return text


@click.command()
@click.option("-f", "files", metavar="FILE|DIR", multiple=True, required=True, help="Manifests; - is stdin.")
@namespace_option
@validate_option
@lab_option
def apply(files: tuple[str, ...], namespace: str | None, lab: str) -> int:
    """Create or change objects. All are checked first: one bad document, and nothing is applied."""
    answer = _ask(lab, "apply", documents=_read(files), namespace=namespace, validate=validation())
    click.echo("\n".join(answer["lines"]))
    return 0


@click.command()
@click.argument("what", nargs=-1, metavar="[KIND NAME… | KIND/NAME…]")
@click.option("-f", "files", metavar="FILE|DIR", multiple=True, help="Delete what these manifests name.")
@namespace_option
@lab_option
def delete(what: tuple[str, ...], files: tuple[str, ...], namespace: str | None, lab: str) -> int:
    """Delete objects, by file or by name."""
    if bool(what) == bool(files):
        raise click.UsageError("name what to delete: KIND NAME, KIND/NAME, or -f FILE")
    if files:
        answer = _ask(lab, "delete_documents", documents=_read(files), namespace=namespace)
    else:
        answer = _ask(lab, "delete", targets=_targets(what), namespace=namespace)
    click.echo("\n".join(answer["lines"]))
    return 0


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="KIND NAME | KIND/NAME")
@click.option("--replicas", type=click.IntRange(0, 10_000), required=True)
@namespace_option
@lab_option
def scale(what: tuple[str, ...], replicas: int, namespace: str | None, lab: str) -> int:
    """Change the number of a workload's pods."""
    answer = _ask(lab, "scale", targets=_targets(what), replicas=replicas, namespace=namespace)
    click.echo("\n".join(answer["lines"]))
    return 0


@click.command(short_help="Set labels (K=V) and remove them (K-).")
@click.argument("what", nargs=-1, required=True, metavar="KIND NAME K=V… K-…")
@namespace_option
@lab_option
def label(what: tuple[str, ...], namespace: str | None, lab: str) -> int:
    """Set labels (K=V) and remove them (K-) of a pod, node, namespace or any other object."""
    names = [word for word in what if "=" not in word and not word.endswith("-")]
    changes = [word for word in what if "=" in word or word.endswith("-")]
    if not changes:
        raise click.UsageError("say what to change: K=V sets a label, K- removes it")
    answer = _ask(
        lab,
        "label",
        targets=_targets(tuple(names)),
        put=dict(word.split("=", 1) for word in changes if "=" in word),
        drop=[word[:-1] for word in changes if "=" not in word],
        namespace=namespace,
    )
    click.echo("\n".join(answer["lines"]))
    return 0


def _targets(words: tuple[str, ...]) -> list[list[str]]:
    """`pod a b` and `pod/a pod/b` alike as [kind, name] pairs."""
    if all("/" in word for word in words):
        return [word.split("/", 1) for word in words]
    kind, *names = words
    if not names or "/" in kind:
        raise click.UsageError("name the object: KIND NAME or KIND/NAME")
    return [[kind, name] for name in names]


def _read(files: tuple[str, ...]) -> list[tuple[str, str]]:
    """(source, text) of each file; the lab decodes them. Raises BadManifest when one cannot be read, with all that is wrong."""
    from percale.model.manifest.files import read

    given = read(files)
    if given.faults:
        from percale.model.manifest.load import load_manifests

        load_manifests(given.documents, unreadable=given.faults).valid(validation())
    return given.documents


def _ask(lab: str, verb: str, **arguments: Any) -> dict[str, Any]:
    from percale.lab.api.client import ask
    from percale.lab.run_dir import locate

    return ask(locate(lab), verb, **arguments)
