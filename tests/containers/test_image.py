"""The image built for real, its demo run as its user, and compose.yaml's three hosts over ssh.

On demand, as root, some GB of disk: `pytest -m on_demand tests/containers`. Where buildah or debootstrap is
missing, DISTTUNE_TEST_INSTALL=1 lets the test install them; DISTTUNE_TEST_BASE names a root file system to
build on, in place of a new one. The hosts have networks of their own; volumes are folders.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.image import INSTALL, Image, is_installed
from tests.distributed.launch import ROOT, Launched
from tests.hosts.machines import Hosts, can_make_hosts

pytestmark = pytest.mark.on_demand
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
UID = 1000


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    if os.geteuid() != 0:
        pytest.skip("only root can build in a chroot")
    if not is_installed():
        if os.environ.get("DISTTUNE_TEST_INSTALL") != "1":
            pytest.skip("there is no buildah; DISTTUNE_TEST_INSTALL=1 lets this test install it")
        subprocess.run(INSTALL, check=True)
    base = os.environ.get("DISTTUNE_TEST_BASE")
    image = Image(Path(tempfile.mkdtemp(prefix="dtc-")), Path(base) if base else None)
    yield image
    image.close()


def test_demo_runs_as_the_user_of_the_image(image: Image):
    words = [*image.configuration["Entrypoint"], "-np", "2", "demo"]
    container = image.container()
    who = subprocess.run(image.command(container, "id", "-u"), capture_output=True, text=True, check=True)

    ended = Launched(image.command(container, *words)).wait(120.0)

    assert image.configuration["User"] == "disttune"
    assert who.stdout.strip() == str(UID)
    assert ended.code == 0, ended.text
    assert "2 rank(s) on 1 node(s); run directory /work/" in ended.stdout


def test_no_layer_holds_a_key(image: Image):
    names = ("ssh_host_*_key", "id_ed25519", "id_rsa", "authorized_keys")

    found = [path for name in names for path in image.layers().rglob(name) if path.is_file()]

    assert found == []


def test_three_hosts_of_compose_reach_each_other_over_ssh(image: Image, tmp_path: Path):
    if not can_make_hosts():
        pytest.skip("this user may not make namespaces")
    volumes = {name: tmp_path / name for name in COMPOSE["volumes"]}
    for folder in volumes.values():
        folder.mkdir()
        os.chown(folder, UID, UID)
    hosts = Hosts(tmp_path, ("host1", "host2", "host3"), volumes["work"])
    made = subprocess.run(service(image, hosts, "keys", volumes), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    servers = [Launched(hosts.on(name, *service(image, hosts, name, volumes))) for name in hosts.names[1:]]
    try:
        for name in hosts.names[1:]:
            wait_for_ssh(hosts, name)
        ended = Launched(hosts.on("host1", *service(image, hosts, "host1", volumes))).wait(120.0)
    finally:
        for server in servers:
            server.kill_all()
        hosts.close()

    assert ended.code == 0, (ended.text, [s.told() for s in servers])
    assert "6 rank(s) on 3 node(s)" in ended.stdout
    assert (volumes["work"] / "demo/best.onnx").is_file()
    assert sorted(p.name for p in volumes["keys"].iterdir()) == [
        "authorized_keys", "id_ed25519", "id_ed25519.pub",
    ]  # fmt: skip


def service(image: Image, hosts: Hosts, name: str, volumes: dict[str, Path]) -> list[str]:
    """The command line of a service of compose.yaml."""
    told = COMPOSE["services"][name]
    options = [f"--volume={hosts.host_names}:/etc/hosts"]
    for volume in told["volumes"]:
        source, _, target = volume.partition(":")
        options.append(f"--volume={volumes[source]}:{target}")
    if "hostname" in told:
        options.append(f"--hostname={told['hostname']}")
    return image.command(image.container(), *told["entrypoint"], *told["command"], options=options)


def wait_for_ssh(hosts: Hosts, name: str) -> None:
    probe = hosts.on("host1", "bash", "-c", f"exec 3<>/dev/tcp/{name}/2222")
    until_s = time.monotonic() + 60.0
    while subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode:
        assert time.monotonic() < until_s, f"no ssh server on {name}"
        time.sleep(0.2)
