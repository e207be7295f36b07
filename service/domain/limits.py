"""Every limit on what Octavo accepts, in one place; settings may change the marked ones."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024
# Kernels that a GPU runtime compiled for one engine.
MAX_RUNTIME_CACHE_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Bounds on uploads. `max_upload_bytes` comes from the settings."""

    max_upload_bytes: int = 2048 * MIB
    max_labels_bytes: int = MIB
    max_labels: int = 100_000
    max_form_field_bytes: int = 64 * 1024
    max_rows: int = 1_000_000
    max_archive_members: int = 100_000
    # Unpacked bytes an archive may reach beside its packed size: a guard against zip bombs.
    max_unpacked_bytes: int = 8192 * MIB
    max_unpacked_ratio: float = 200.0


@dataclass(frozen=True, slots=True)
class InferLimits:
    """Bounds on inference requests and on the queue before each replica."""

    max_body_bytes: int = 64 * MIB
    max_image_bytes: int = 32 * MIB
    max_image_pixels: int = 50_000_000
    max_image_side: int = 16_384
    max_queue_rows: int = 1024
    max_batch_rows: int = 32
    # Batches that one engine may run beside each other.
    instances: int = 1
    max_delay_seconds: float = 0.0
    max_top_k: int = 1000


@dataclass(frozen=True, slots=True)
class StageLimits:
    """What one child process of a job may use: wall seconds and bytes of private memory."""

    time_seconds: float = 3600.0
    memory_bytes: int = 16 * 1024 * MIB
