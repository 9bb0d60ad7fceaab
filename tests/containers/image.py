"""The shipped Dockerfile built with buildah, on a Debian made with debootstrap: no docker engine is needed.

Everything is in one folder, which `close` removes.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.distributed.launch import ROOT

INSTALL = ["apt-get", "install", "--yes", "--no-install-recommends", "buildah", "debootstrap"]
PROGRAMS = ("buildah", "debootstrap")
PACKAGES = "python3,python3-venv,ca-certificates,openssh-server,openssh-client"
PIP_CONFIGURATION = Path("/etc/pip.conf")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class Image:
    """The image of docker/Dockerfile.

    Args:
        folder: for everything; some GB.
        base: a root file system to start from; made with debootstrap when None.
    """

    def __init__(self, folder: Path, base: Path | None = None):
        self._folder = folder
        self._containers: list[str] = []
        try:
            if base is None:
                base = folder / "base"
                subprocess.run(
                    ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", base],
                    check=True,
                )
            self._commit(base)
            self._build()
        except BaseException:
            self.close()
            raise
        inspected = json.loads(self._buildah("inspect", "--type=image", "disttune"))
        self.configuration = inspected["OCIv1"]["config"]

    def container(self) -> str:
        """A new container of it."""
        name = self._buildah("from", "--pull-never", "localhost/disttune").strip()
        self._containers.append(name)
        return name

    def command(self, container: str, *words: str, options: Sequence[str] = ()) -> list[str]:
        """A command line that runs in a container, as the image's user."""
        return [*self._words(), "run", *options, container, "--", *words]

    def layers(self) -> Path:
        """Where the files of all layers are."""
        return self._folder / "store" / "vfs" / "dir"

    def close(self) -> None:
        for name in self._containers:
            self._buildah("rm", name)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _commit(self, base: Path) -> None:
        name = self._buildah("from", "scratch").strip()
        mounted = self._buildah("mount", name).strip()
        subprocess.run(["cp", "--archive", f"{base}/.", mounted], check=True)
        for key in Path(mounted, "etc/ssh").glob("ssh_host_*"):
            key.unlink()  # made when Debian's package was installed
        self._buildah("commit", "--rm", name, "disttune-base")

    def _build(self) -> None:
        mounted = [
            f"--volume={path}:{path}:ro" for path in (PIP_CONFIGURATION, CERTIFICATES) if path.exists()
        ]
        options = ["--isolation=chroot", "--build-arg=BASE=localhost/disttune-base", "--tag=disttune"]
        self._buildah("build", *options, *mounted, f"--file={ROOT}/docker/Dockerfile", str(ROOT))

    def _buildah(self, *words: str) -> str:
        done = subprocess.run([*self._words(), *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout

    def _words(self) -> list[str]:
        return [
            "env", "BUILDAH_ISOLATION=chroot", "STORAGE_DRIVER=vfs",
            "buildah", f"--root={self._folder}/store", f"--runroot={self._folder}/run",
        ]  # fmt: skip


def is_installed() -> bool:
    path = f"{os.environ['PATH']}:/usr/sbin"
    return all(shutil.which(program, path=path) for program in PROGRAMS)
