"""Ranges: read from the environment, apart from each other and from what the host uses."""

import json
from ipaddress import IPv4Address, IPv4Network

import pytest
from localcluster.errors import ClusterError
from localcluster.ranges import Taken, conflicts, parse_taken
from localcluster.settings import Addresses, Paths, node_name


def test_defaults_follow_the_conventions_of_kubernetes() -> None:
    addresses = Addresses.from_env({})
    assert addresses.node_ip(2) == IPv4Address("10.213.0.2")
    assert addresses.pod_cidr(1) == IPv4Network("10.214.1.0/24")
    assert addresses.api_service == IPv4Address("10.215.0.1")
    assert addresses.dns_service == IPv4Address("10.215.0.10")
    assert addresses.fake_pods == IPv4Network("10.214.128.0/17")


def test_every_range_can_be_moved() -> None:
    env = {
        "HEADWAY_NODE_NET": "172.30.1.0/24",
        "HEADWAY_POD_NET": "172.31.0.0/16",
        "HEADWAY_SERVICE_NET": "10.9.0.0/20",
    }
    addresses = Addresses.from_env(env)
    assert {name: str(net) for name, net in addresses.ranges.items()} == env


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"HEADWAY_NODE_NET": "10.213.0.0"}, "prefix length must be between /8 and /28"),
        ({"HEADWAY_NODE_NET": "nonsense"}, "HEADWAY_NODE_NET=nonsense is not an IPv4 range"),
        ({"HEADWAY_POD_NET": "10.214.0.1/16"}, "has host bits set"),
        ({"HEADWAY_POD_NET": "10.214.0.0/24"}, "between /8 and /20"),
        ({"HEADWAY_SERVICE_NET": "10.214.128.0/17"}, "HEADWAY_POD_NET=10.214.0.0/16 overlaps HEADWAY_SERVICE_NET"),
    ],
)
def test_a_bad_range_is_named_with_its_bound(env: dict[str, str], said: str) -> None:
    with pytest.raises(ClusterError, match=said.replace(".", r"\.")):
        Addresses.from_env(env)


def test_pod_ranges_of_the_real_nodes_stay_clear_of_the_fake_pods_in_the_smallest_range() -> None:
    addresses = Addresses.from_env({"HEADWAY_POD_NET": "10.200.0.0/20"})
    assert not any(addresses.pod_cidr(i).overlaps(addresses.fake_pods) for i in (1, 2))


def test_taken_ranges_come_from_addresses_and_routes_but_not_from_the_default_route() -> None:
    links = [{"ifname": "eth0", "addr_info": [{"family": "inet", "local": "192.168.1.7", "prefixlen": 24}]}]
    links.append({"ifname": "lo", "addr_info": [{"family": "inet6", "local": "::1", "prefixlen": 128}]})
    routes = [
        {"dst": "default", "dev": "eth0"},
        {"dst": "10.8.0.0/13", "dev": "tun0"},
        {"dst": "fe80::/64", "dev": "eth0"},
    ]
    assert parse_taken(json.dumps(links), json.dumps(routes)) == [
        Taken(IPv4Network("192.168.1.0/24"), "the address of eth0"),
        Taken(IPv4Network("10.8.0.0/13"), "the route 10.8.0.0/13 dev tun0"),
    ]


def test_an_overlap_names_the_range_its_owner_and_the_variable_that_moves_it() -> None:
    vpn = Taken(IPv4Network("10.208.0.0/13"), "the route 10.208.0.0/13 dev tun0")
    problems = conflicts(Addresses.from_env({}), [vpn])
    assert len(problems) == 3
    assert problems[0] == (
        "HEADWAY_NODE_NET=10.213.0.0/24 overlaps 10.208.0.0/13, the route 10.208.0.0/13 dev tun0; "
        "set HEADWAY_NODE_NET to a free range"
    )


def test_a_neighbouring_range_is_no_conflict() -> None:
    assert (
        conflicts(
            Addresses.from_env({}), [Taken(IPv4Network("10.212.0.0/16"), "x"), Taken(IPv4Network("10.216.0.0/16"), "y")]
        )
        == []
    )


def test_folders_follow_xdg_and_the_registry_lies_outside_state_and_binaries() -> None:
    paths = Paths.from_env({"HOME": "/home/a", "XDG_CACHE_HOME": "/cache"})
    assert str(paths.state) == "/home/a/.local/state/headway/cluster"
    assert str(paths.cache) == "/cache/headway/cluster"
    assert str(paths.registry) == "/cache/headway/registry"
    assert paths.netns(1) is None
    assert paths.netns(2) == paths.state / "netns" / node_name(2)


def test_a_state_folder_too_deep_for_a_socket_is_refused_with_the_cure() -> None:
    with pytest.raises(ClusterError, match="HEADWAY_CLUSTER_STATE"):
        Paths.from_env({"HOME": "/home/" + "a" * 60})
    assert Paths.from_env({"HOME": "/home/" + "a" * 60, "HEADWAY_CLUSTER_STATE": "/var/hw"}).state.name == "hw"


def test_a_relative_state_folder_is_refused() -> None:
    with pytest.raises(ClusterError, match="not an absolute path"):
        Paths.from_env({"HOME": "/root", "HEADWAY_CLUSTER_STATE": "here"})
