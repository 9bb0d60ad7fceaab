"""The files of launch/ and docker/ as such: syntax, fields, and that they fit each other."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.distributed.launch import ROOT
from tests.launch.mpijob_fields import MPIJOB, unknown_fields

SCRIPTS = [
    path
    for pattern in ("launch/*.sh", "launch/*/*.sh", "docker/*.sh", "tests/*.sh", ".ci/run")
    for path in sorted(ROOT.glob(pattern))
]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_script_parses(script: Path):
    parsed = subprocess.run(["bash", "-n", script], capture_output=True, text=True)

    assert (parsed.returncode, parsed.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck")
def test_shellcheck_finds_nothing():
    checked = subprocess.run(
        ["shellcheck", "--external-sources", *SCRIPTS], cwd=ROOT, capture_output=True, text=True
    )

    assert checked.stdout == ""


def test_mpijob_has_fields_of_the_published_type_alone():
    job = read("launch/kubernetes/mpijob.yaml")

    assert unknown_fields(job, MPIJOB) == []
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    assert unknown_fields(job | {"spec": {"slots": 1}}, MPIJOB) == ["spec.slots: no such field"]


def test_mpijob_fits_the_image():
    spec = read("launch/kubernetes/mpijob.yaml")["spec"]
    launcher, worker = (spec["mpiReplicaSpecs"][n]["template"]["spec"] for n in ("Launcher", "Worker"))
    container, host = launcher["containers"][0], worker["containers"][0]

    assert in_image(container["command"][0])
    assert in_image(host["command"][0])
    assert spec["sshAuthMountPath"] in DOCKERFILE
    assert "--uid 1000" in DOCKERFILE
    assert container["securityContext"]["runAsUser"] == host["securityContext"]["runAsUser"] == 1000
    assert host["resources"]["limits"]["cpu"] == str(spec["slotsPerWorker"])
    assert spec["mpiReplicaSpecs"]["Launcher"]["restartPolicy"] == "OnFailure"  # 75 runs it again
    for pod in (launcher, worker):
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_compose_names_three_hosts_and_files_of_the_image():
    compose = read("docker/compose.yaml")
    services = compose["services"]
    hosts, *_ = (re.findall(r"(\w+):2", words[1]) for words in [services["host1"]["entrypoint"]])

    assert hosts == ["host1", "host2", "host3"]
    assert [services[host]["hostname"] for host in hosts] == hosts
    assert all(in_image(service["entrypoint"][0]) for service in services.values())
    assert {v.split(":")[0] for s in services.values() for v in s["volumes"]} == set(compose["volumes"])


def test_image_is_built_from_pinned_versions_for_a_user_and_holds_no_key():
    constraints = (ROOT / "docker/constraints.txt").read_text().splitlines()

    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in constraints)
    assert DOCKERFILE.index("\nUSER disttune") < DOCKERFILE.index("\nENTRYPOINT")
    assert "ssh-keygen" not in DOCKERFILE
    assert "rm -f /etc/ssh/ssh_host_*" in DOCKERFILE
    for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name
            assert f"!{Path(name).parts[0]}" in (ROOT / ".dockerignore").read_text().splitlines()


def in_image(path: str) -> bool:
    """Whether a script is in the checkout, at a place that the image copies."""
    inside = Path(path).relative_to("/opt/disttune")
    is_copied = inside.parts[0] == "launch" or str(inside) in DOCKERFILE
    return (ROOT / inside).is_file() and is_copied
