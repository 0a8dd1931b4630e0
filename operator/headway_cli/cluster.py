"""The Kubernetes side of the command line: which fleets there are, and which of their pods take requests.

Only benchmarks write. Transport and credentials come from the user's kubeconfig (or, inside a pod, the service account); answers
are plain JSON, narrowed to the few facts a command needs.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import yaml
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config

from headway_cli.errors import CliError

FLEETS_PATH = "/apis/serving.headway.dev/v1alpha1"
LABEL_FLEET = "serving.headway.dev/fleet"
LABEL_SERVING = "serving.headway.dev/serving"
CHANNEL_PROTOCOL = "v4.channel.k8s.io"
REQUEST_TIMEOUT_S = 15.0
_CURE = "set KUBECONFIG, or name an engine with --address HOST:PORT where the command takes one"

# JSON of the API server: checked where it is read.
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fleet:
    """One LLMDeployment.

    Attributes:
        namespace: where it is.
        name: what it is called.
        not_ready: reason and message of its Ready condition when that is not True.
    """

    namespace: str
    name: str
    not_ready: str


@dataclass(frozen=True, slots=True)
class Pod:
    """An engine pod that exists; `serving` when it is ready and takes requests."""

    namespace: str
    name: str
    serving: bool


class Cluster:
    """A connection to one API server; use it as a context manager."""

    def __init__(self, client: k8s.ApiClient) -> None:
        self._client = client
        # Only the client's configuration is used, with its TLS and its tokens: it cannot open a websocket itself.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=client.rest_client.ssl_context), trust_env=True
        )

    @classmethod
    async def connect(cls, context: str | None = None) -> Self:
        """Use the user's kubeconfig, or the service account inside a pod.

        Raises:
            CliError: there is neither.
        """
        configuration = k8s.Configuration()
        where = k8s_config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION
        if not _any_exists(where):
            # Asked, the library would print a line of its own and miss a context in a file that is not there.
            if context is None and _in_cluster(configuration):
                return cls(k8s.ApiClient(configuration))
            raise CliError(f"no cluster is known: there is no kubeconfig {where}; {_CURE}")
        try:
            await k8s_config.load_kube_config(context=context, client_configuration=configuration)
        except (k8s_config.ConfigException, OSError) as error:
            if context is not None or not _in_cluster(configuration):
                raise CliError(f"no cluster is known: {error}; {_CURE}") from None
        # What the library raises on a file that is something else.
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError):
            raise CliError("what KUBECONFIG names (or ~/.kube/config) is no kubeconfig") from None
        return cls(k8s.ApiClient(configuration))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._client.close()

    async def fleets(self, namespace: str | None = None) -> list[Fleet]:
        """All fleets, or those of one namespace."""
        return [named(item) for item in await self.fleet_objects(namespace)]

    async def fleet_objects(self, namespace: str | None = None) -> Sequence[Json]:
        """The same fleets as the API server has them."""
        scope = f"/namespaces/{namespace}" if namespace else ""
        return await self._list(f"{FLEETS_PATH}{scope}/llmdeployments")

    async def find_fleet(self, name: str | None, namespace: str | None) -> Fleet:
        """The fleet of that name, or the only one there is."""
        return choose_fleet(await self.fleets(namespace), name, namespace)

    async def fleet_object(self, name: str | None, namespace: str | None) -> Json:
        """The LLMDeployment that the user means, whole."""
        objects = {named(item): item for item in await self.fleet_objects(namespace)}
        return objects[choose_fleet(list(objects), name, namespace)]

    async def pods(self, fleet: Fleet) -> list[Pod]:
        """The fleet's pods, by name."""
        return sorted((named_pod(item) for item in await self.pod_objects(fleet)), key=lambda pod: pod.name)

    async def pod_objects(self, fleet: Fleet) -> Sequence[Json]:
        """The same pods as the API server has them."""
        selector = urlencode({"labelSelector": f"{LABEL_FLEET}={fleet.name}"})
        return await self._list(f"/api/v1/namespaces/{fleet.namespace}/pods?{selector}")

    async def serving_pods(self, fleet: Fleet) -> list[Pod]:
        """The pods that take requests.

        Raises:
            CliError: there is none; the message holds the fleet's own reason.
        """
        pods = await self.pods(fleet)
        serving = [pod for pod in pods if pod.serving]
        if not serving:
            why = fleet.not_ready or f"{len(pods)} pods exist, none is ready"
            raise CliError(f"fleet {fleet.namespace}/{fleet.name} has no ready pod: {why}")
        return serving

    async def websocket(self, path: str) -> aiohttp.ClientWebSocketResponse:
        """Open a stream to a subresource of a pod.

        Raises:
            CliError: the API server refused.
        """
        # The subresource answers 406 to a request that wants JSON.
        url, headers = await self._address(path, accept="*/*")
        try:
            socket: aiohttp.ClientWebSocketResponse = await self._session.ws_connect(
                url, headers=headers, protocols=(CHANNEL_PROTOCOL,)
            )
        except aiohttp.WSServerHandshakeError as error:
            raise CliError(f"the API server refused {path}: {error.status} {error.message}") from None
        return socket

    async def find(self, path: str) -> Json | None:
        """One object, None when there is none."""
        status, body = await self._request("GET", path)
        if status == HTTPStatus.NOT_FOUND:
            return None
        self._must(status, path, body)
        found: Json = json.loads(body)
        return found

    async def get(self, path: str) -> Json:
        """One object that is there.

        Raises:
            CliError: it is not, or may not be read.
        """
        found = await self.find(path)
        if found is None:
            raise CliError(f"{path} does not exist")
        return found

    async def write(self, method: str, path: str, body: Json | None = None, *, missing_ok: bool = False) -> None:
        """POST, PATCH (a merge patch) or DELETE an object.

        Raises:
            CliError: the API server refused.
        """
        status, text = await self._request(method, path, body)
        if not (missing_ok and status == HTTPStatus.NOT_FOUND):
            self._must(status, path, text)

    async def find_items(self, path: str) -> Sequence[Json]:
        """The objects of a list; none when it does not exist here or may not be read."""
        status, body = await self._request("GET", path)
        return () if status in (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN) else self._items(status, path, body)

    async def _list(self, path: str) -> Sequence[Json]:
        status, body = await self._request("GET", path)
        if status == HTTPStatus.NOT_FOUND:
            raise CliError("the cluster has no LLMDeployments: Headway's CRD is not installed")
        return self._items(status, path, body)

    def _items(self, status: int, path: str, body: str) -> Sequence[Json]:
        self._must(status, path, body)
        items: Sequence[Json] = json.loads(body)["items"]
        return items

    async def _request(self, method: str, path: str, body: Json | None = None) -> tuple[int, str]:
        url, headers = await self._address(path)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        if body is not None:
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            headers = {**headers, "Content-Type": kind}
        data = None if body is None else json.dumps(body)
        try:
            async with self._session.request(method, url, headers=headers, data=data, timeout=timeout) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            cause = str(error) or "time-out"
            raise CliError(f"the API server {self._client.configuration.host} cannot be reached: {cause}") from None

    def _must(self, status: int, path: str, body: str) -> None:
        if status >= HTTPStatus.BAD_REQUEST:
            raise CliError(f"the API server answered {status} to {path}: {_message(body)}")

    async def _address(self, path: str, accept: str = "application/json") -> tuple[str, Mapping[str, str]]:
        """The whole URL, and the headers with the user's credentials."""
        _, url, headers, *_ = await self._client.param_serialize(
            "GET", path, header_params={"Accept": accept}, auth_settings=["BearerToken"]
        )
        return url, headers


def choose_fleet(fleets: Sequence[Fleet], name: str | None, namespace: str | None) -> Fleet:
    """The fleet that the user means; with no name, the only one."""
    where = f"namespace {namespace}" if namespace else "the cluster"
    known = ", ".join(sorted(f"{fleet.namespace}/{fleet.name}" for fleet in fleets))
    matching = [fleet for fleet in fleets if name is None or fleet.name == name]
    match matching:
        case [fleet]:
            return fleet
        case []:
            if name is None:
                raise CliError(f"{where} has no LLMDeployment; apply one, or give --address HOST:PORT")
            raise CliError(f"{where} has no LLMDeployment {name!r}" + (f"; there are: {known}" if known else ""))
        case _:
            listed = ", ".join(sorted(f"{fleet.namespace}/{fleet.name}" for fleet in matching))
            raise CliError(f"several fleets match: {listed}; choose one with --fleet NAME --namespace NS")


def _in_cluster(configuration: k8s.Configuration) -> bool:
    try:
        k8s_config.load_incluster_config(client_configuration=configuration)
    except k8s_config.ConfigException:
        return False
    return True


def named(item: Json) -> Fleet:
    """A fleet's name, and why it is not ready."""
    conditions = (item.get("status") or {}).get("conditions") or []
    ready = next((condition for condition in conditions if condition["type"] == "Ready"), None)
    if ready is None:
        not_ready = "the operator has not reported on it yet; is it running?"
    elif ready["status"] == "True":
        not_ready = ""
    else:
        not_ready = f"{ready.get('reason', '')}: {ready.get('message', '')}".strip(": ")
    return Fleet(item["metadata"]["namespace"], item["metadata"]["name"], not_ready)


def _any_exists(paths: str) -> bool:
    return any(Path(one).expanduser().exists() for one in paths.split(os.pathsep) if one)


def named_pod(item: Json) -> Pod:
    """A pod's name, and whether it takes requests."""
    metadata = item["metadata"]
    conditions = (item.get("status") or {}).get("conditions") or []
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    welcome = (metadata.get("labels") or {}).get(LABEL_SERVING) == "true" and "deletionTimestamp" not in metadata
    return Pod(metadata["namespace"], metadata["name"], ready and welcome)


def _message(body: str) -> str:
    try:
        return str(json.loads(body).get("message", body))
    except ValueError:
        return body[:200]
