"""The fields of an MPIJob that launch/kubernetes may use, and what each holds.

Source: github.com/kubeflow/mpi-operator, pkg/apis/kubeflow/v2beta1/types.go, and the pod template of
kubernetes' core v1 as far as the file uses it. A value is a type, or the fields below it; [x] is a list of x;
{str: x} any names with x.
"""

from typing import Any

_QUANTITIES = {str: str}
_CONTAINER = {
    "name": str,
    "image": str,
    "workingDir": str,
    "command": [str],
    "args": [str],
    "securityContext": {"runAsUser": int, "runAsGroup": int},
    "resources": {"requests": _QUANTITIES, "limits": _QUANTITIES},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
_POD = {
    "terminationGracePeriodSeconds": int,
    "securityContext": {"fsGroup": int},
    "containers": [_CONTAINER],
    "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}, "emptyDir": {str: str}}],
}
_REPLICA = {"replicas": int, "restartPolicy": str, "template": {"spec": _POD}}
MPIJOB: dict[Any, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "slotsPerWorker": int,
        "sshAuthMountPath": str,
        "mpiImplementation": str,
        "runPolicy": {
            "cleanPodPolicy": str,
            "ttlSecondsAfterFinished": int,
            "activeDeadlineSeconds": int,
            "backoffLimit": int,
            "suspend": bool,
        },
        "mpiReplicaSpecs": {"Launcher": _REPLICA, "Worker": _REPLICA},
    },
}


def unknown_fields(value: Any, fields: Any, at: str = "") -> list[str]:
    """Paths in value that are no field, or hold another type."""
    if isinstance(fields, type):
        return [] if isinstance(value, fields) else [f"{at}: {value!r} is no {fields.__name__}"]
    if isinstance(fields, list):
        if not isinstance(value, list):
            return [f"{at}: no list"]
        return [text for i, v in enumerate(value) for text in unknown_fields(v, fields[0], f"{at}[{i}]")]
    if not isinstance(value, dict):
        return [f"{at}: no mapping"]
    found = []
    for name, below in value.items():
        known = fields.get(name, fields.get(type(name)))
        path = f"{at}.{name}" if at else name
        found += [f"{path}: no such field"] if known is None else unknown_fields(below, known, path)
    return found
