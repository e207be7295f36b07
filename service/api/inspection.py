"""Checks of uploaded files in a process of their own, so that a hostile file costs that process and nothing else."""

from __future__ import annotations

import logging
from typing import Any

from service.api.dependencies import Services
from service.errors import InvalidInput, StageFailed, StageMemoryLimit, StageTimeLimit

_log = logging.getLogger(__name__)


def inspect(services: Services, task: str, arguments: dict[str, Any], refusal: type[InvalidInput]) -> dict[str, Any]:
    """What the sandboxed task found out. Raises the task's own error, or `refusal` when the file broke its process."""
    limits = services.inspection_limits
    try:
        return services.run_task(task, arguments, limits=limits)
    except StageTimeLimit as error:
        raise refusal(f"checking the file took over {limits.time_seconds:g} s; send a smaller one") from error
    except StageMemoryLimit as error:
        raise refusal(f"checking the file took over {limits.memory_bytes} bytes; send a smaller one") from error
    except StageFailed as error:
        # Its words name paths of this host and a way to reproduce it: for the log, not for the caller.
        _log.error("inspection failed", extra={"task": task, "reason": str(error)})
        raise refusal("the file broke the process that checked it; export it anew, or see the server's log") from error
