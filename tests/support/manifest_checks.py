"""All checks of manifests, in the order in which one relies on those before it."""

from collections.abc import Callable, Iterator

from support import manifest_faults as faults
from support import manifest_links as links
from support.manifests import Object

Check = Callable[[list[Object]], Iterator[str]]
OF_ALL: tuple[Check, ...] = (
    faults.schema, faults.hardened, faults.images, faults.commands, links.volumes, links.secrets,
)  # fmt: skip
OF_A_DEPLOYMENT: tuple[Check, ...] = (
    *OF_ALL, faults.settings, faults.ports_and_probes, faults.times, faults.memory,
    links.selectors, links.balancing, links.network, links.monitors, links.autoscaling,
    links.doors, links.namespaces,
)  # fmt: skip


def faults_of(objects: list[Object], checks: tuple[Check, ...] = OF_A_DEPLOYMENT) -> list[str]:
    """What the first check that finds anything finds."""
    return next((found for check in checks if (found := list(check(objects)))), [])
