"""Whether this process can do its work."""

from collections.abc import Mapping

from gateway.errors import GatewayError
from gateway.ports import Runtime
from gateway.storage import projects


async def check_readiness(runtime: Runtime) -> Mapping[str, str]:
    """Return each check's name and `ok` or what is wrong. No upstream is asked."""
    checks = {"draining": "the process is stopping" if runtime.lifecycle.is_draining else "ok"}
    try:
        await runtime.db.read(projects.count)
        checks["database"] = "ok"
    except GatewayError as error:
        checks["database"] = error.message
    return checks
