"""The API's routes about parts and artifacts of releases as methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

_ALL = "-"
_LONG_SECONDS = 900.0


class RegistryRoutes:
    """Component versions, labels, derived releases, artifacts, keys and environments."""

    def _call(self, method: str, path: str, **options: Any) -> Any:
        raise NotImplementedError

    # ------------------------------------------------------------ components

    def components(self, agent: str, **filters: Any) -> Any:
        """Component versions; filters: kind, name, before, limit."""
        given = {name: value for name, value in filters.items() if value is not None}
        return self._call("GET", f"{_of(agent)}/components", params=given)

    def component(self, agent: str, kind: str, name: str, ref: str = "latest") -> Any:
        """One version, whole."""
        return self._call("GET", f"{_at(agent, kind, name)}/versions/{_part(ref)}")

    def delete_component(self, agent: str, kind: str, name: str, ref: str) -> Any:
        """Take a version out of the registry."""
        return self._call("DELETE", f"{_at(agent, kind, name)}/versions/{_part(ref)}")

    def diff_components(self, agent: str, kind: str, name: str, before: str, after: str) -> Any:
        """What differs between two versions."""
        path = f"{_at(agent, kind, name)}/diff/{_part(before)}/{_part(after)}"
        return self._call("GET", path)

    def prompts(self, agent: str) -> Any:
        """The newest version of each prompt."""
        return self._call("GET", f"{_of(agent)}/prompts")

    def push_prompt(
        self,
        agent: str,
        name: str,
        text: str,
        *,
        message: str = "",
        tags: Sequence[str] = (),
        labels: Sequence[str] = (),
        expect: str | None = None,
    ) -> Any:
        """Publish a prompt."""
        body = {
            "text": text,
            "message": message,
            "tags": list(tags),
            "labels": list(labels),
            "expect": expect,
        }
        return self._call("PUT", f"{_of(agent)}/prompts/{_part(name)}", json=body)

    def labels(self, agent: str, kind: str, name: str) -> Any:
        """Where the labels point, and where they have been."""
        return self._call("GET", f"{_at(agent, kind, name)}/labels")

    def move_label(
        self,
        agent: str,
        kind: str,
        name: str,
        label: str,
        *,
        to: str,
        message: str = "",
        expect: str | None = None,
    ) -> Any:
        """Point a label at a version."""
        body = {"to": to, "message": message, "expect": expect}
        return self._call("PUT", f"{_at(agent, kind, name)}/labels/{_part(label)}", json=body)

    def remove_label(self, agent: str, kind: str, name: str, label: str) -> Any:
        """Take a label away."""
        return self._call("DELETE", f"{_at(agent, kind, name)}/labels/{_part(label)}")

    def protect_label(self, agent: str, label: str, *, protected: bool = True) -> Any:
        """Let only administrators move a label."""
        path = f"{_of(agent)}/labels/{_part(label)}"
        return self._call("PUT", path, json={"protected": protected})

    # ------------------------------------------------------------ releases

    def derive_release(
        self, agent: str, settings: Sequence[str], *, base: str = "live", message: str = ""
    ) -> Any:
        """Make a release of another, with some parts replaced."""
        body = {"set": list(settings), "base": base, "message": message}
        return self._call("POST", f"{_of(agent)}/releases", json=body, timeout=_LONG_SECONDS)

    def roll_back_component(
        self,
        agent: str,
        component: str,
        *,
        environment: str = "production",
        to: str | None = None,
    ) -> Any:
        """Roll one component back and leave the others as they are."""
        return self._call(
            "POST",
            f"{_of(agent)}/deployments/{_part(environment)}/rollback",
            json={"component": component, "to": to},
            timeout=_LONG_SECONDS,
        )

    def import_artifact(
        self, content: bytes | Iterable[bytes], *, trust: Sequence[str] = (), message: str = ""
    ) -> Any:
        """Publish the release in an artifact."""
        return self._call(
            "POST",
            "/api/v1/artifacts",
            content=content,
            params={"trust": list(trust), "message": message},
            timeout=_LONG_SECONDS,
        )

    def push_artifact(
        self, agent: str, ref: str, reference: str, *, insecure: bool = False, wheels: bool = True
    ) -> Any:
        """Push a release's artifact to a registry."""
        body = {"reference": reference, "insecure": insecure, "wheels": wheels}
        path = f"{_of(agent)}/releases/{_part(ref)}/push"
        return self._call("POST", path, json=body, timeout=_LONG_SECONDS)

    def pull_artifact(
        self, reference: str, *, trust: Sequence[str] = (), insecure: bool = False
    ) -> Any:
        """Pull an artifact from a registry and publish its release."""
        body = {"reference": reference, "insecure": insecure, "trust": list(trust)}
        return self._call("POST", "/api/v1/artifacts/pull", json=body, timeout=_LONG_SECONDS)

    def delete_release(self, agent: str, ref: str) -> Any:
        """Delete a release that has never served anybody."""
        return self._call("DELETE", f"{_of(agent)}/releases/{_part(ref)}")

    def garbage(self, *, remove: bool = False) -> Any:
        """Find what nothing refers to; with ``remove``, remove it."""
        if remove:
            return self._call("POST", "/api/v1/garbage/collect", json={}, timeout=_LONG_SECONDS)
        return self._call("GET", "/api/v1/garbage", timeout=_LONG_SECONDS)

    # ------------------------------------------------------------ keys and environments

    def signing_keys(self) -> Any:
        """The public keys that are known."""
        return self._call("GET", "/api/v1/signing/keys")

    def rotate_signing_key(self) -> Any:
        """Sign with a new key from now on."""
        return self._call("POST", "/api/v1/signing/rotate", json={})

    def trust_signing_key(self, public_pem: str, name: str) -> Any:
        """Believe another installation's key."""
        body = {"public_pem": public_pem, "name": name}
        return self._call("POST", "/api/v1/signing/keys", json=body)

    def revoke_signing_key(self, key_id: str) -> Any:
        """Believe nothing that a key has signed."""
        return self._call("DELETE", f"/api/v1/signing/keys/{_part(key_id)}")

    def environments(self, agent: str) -> Any:
        """The environments of an agent that add something to its releases."""
        return self._call("GET", f"{_of(agent)}/environments")

    def environment(self, agent: str, environment: str) -> Any:
        """What an environment adds."""
        return self._call("GET", f"{_of(agent)}/environments/{_part(environment)}")

    def change_environment(
        self,
        agent: str,
        environment: str,
        *,
        overlay: Mapping[str, str | None] | None = None,
        variables: Mapping[str, str | None] | None = None,
    ) -> Any:
        """Add to an environment, or with None take away."""
        body = {"overlay": dict(overlay or {}), "variables": dict(variables or {})}
        return self._call("PATCH", f"{_of(agent)}/environments/{_part(environment)}", json=body)


def _of(agent: str) -> str:
    return f"/api/v1/agents/{_part(agent)}"


def _at(agent: str, kind: str, name: str) -> str:
    return f"{_of(agent)}/components/{_part(kind)}/{_part(name or _ALL)}"


def _part(text: str) -> str:
    return quote(text, safe="")
