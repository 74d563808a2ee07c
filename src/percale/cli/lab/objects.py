"""`percale lab apply`, `delete`, `scale`, `label`: the cluster's objects, as kubectl would."""

from __future__ import annotations

import click

from percale.cli.lab.requests import ask_lab, print_changed
from percale.cli.object_names import Choice, choice_options, require_one_way
from percale.cli.options import lab_option, namespace_option, validate_option, validation


@click.command()
@click.option("-f", "files", metavar="FILE|DIR", multiple=True, required=True, help="Manifests; - is stdin.")
@namespace_option
@validate_option
@lab_option
def apply(files: tuple[str, ...], namespace: str | None, lab: str) -> int:
    """Create or change objects. All are checked first: one bad document, and nothing is applied."""
    answer = ask_lab(lab, "apply", documents=_documents(files), namespace=namespace, validate=validation())
    click.echo("\n".join(answer["lines"]))
    return 0


@click.command(short_help="Delete objects: of files, by name, or all of a kind.")
@click.argument("what", nargs=-1, metavar="[KIND NAME… | KIND/NAME… | KIND]")
@click.option("-f", "files", metavar="FILE|DIR", multiple=True, help="Delete what these manifests name.")
@choice_options
@lab_option
def delete(what: tuple[str, ...], files: tuple[str, ...], choice: Choice, lab: str) -> int:
    """Delete objects: those of files, by name, or with --all or -l those of KIND."""
    require_one_way(what, files, choice)
    if not files:
        return print_changed(ask_lab(lab, "delete", **choice.of(what)))
    answer = ask_lab(lab, "delete_documents", documents=_documents(files), namespace=choice.namespace)
    click.echo("\n".join(answer["lines"]))
    return 0


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="KIND NAME… | KIND/NAME… | KIND")
@click.option("--replicas", type=click.IntRange(0, 10_000), required=True)
@choice_options
@lab_option
def scale(what: tuple[str, ...], replicas: int, choice: Choice, lab: str) -> int:
    """Change the number of a workload's pods."""
    return print_changed(ask_lab(lab, "scale", replicas=replicas, **choice.of(what)))


@click.command(short_help="Set labels (K=V) and remove them (K-).")
@click.argument("what", nargs=-1, required=True, metavar="KIND NAME… | KIND/NAME… | KIND K=V… K-…")
@choice_options
@lab_option
def label(what: tuple[str, ...], choice: Choice, lab: str) -> int:
    """Set labels (K=V) and remove them (K-) of a pod, node, namespace or any other object."""
    names = [word for word in what if "=" not in word and not word.endswith("-")]
    changes = [word for word in what if "=" in word or word.endswith("-")]
    if not names or not changes:
        raise click.UsageError("say of what and what to change: KIND NAME K=V sets a label, K- removes it")
    put = dict(word.split("=", 1) for word in changes if "=" in word)
    drop = [word[:-1] for word in changes if "=" not in word]
    return print_changed(ask_lab(lab, "label", put=put, drop=drop, **choice.of(names)))


def _documents(files: tuple[str, ...]) -> list[tuple[str, str]]:
    """(source, text) of each file; the lab decodes them. Raises BadManifest when one cannot be read, with all that is wrong."""
    from percale.model.manifest.files import read

    given = read(files)
    if given.faults:
        from percale.model.manifest.load import load_manifests

        load_manifests(given.documents, unreadable=given.faults).valid(validation())
    return given.documents
