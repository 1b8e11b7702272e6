"""The GPUs' state from NVML (libnvidia-ml.so.1, which comes with the driver), as Prometheus metrics.

Names, units and structures are those of NVIDIA's NVML API reference. A card or a driver that does not know one of the
values leaves it out.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from typing import Any

from vllmd_node import files, metrics_text

LIBRARY = "libnvidia-ml.so.1"
FILE = "/run/vllmd/metrics/gpu.prom"
INTERVAL_SECONDS = 15.0

_SUCCESS = 0
_TEMPERATURE_GPU = 0
_CLOCK_SM = 1
_CORRECTED, _UNCORRECTED, _VOLATILE = 0, 1, 0
_NAME_BYTES = 96


class NvmlError(Exception):
    """NVML cannot be used; the message is one line."""


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Nvml:
    """The library, opened: reads all GPUs once for each call of ``read``."""

    def __init__(self, library: Any = None) -> None:
        try:
            self._library = library or ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise NvmlError(f"cannot load {LIBRARY}: {error}; it comes with the driver") from None
        code = self._call("nvmlInit_v2")
        if code != _SUCCESS:
            raise NvmlError(f"NVML does not start (code {code}); is the driver of the same version loaded?")

    def read(self) -> list[dict[str, Any]]:
        """Return each GPU's values by name; ``uuid`` and ``name`` are text."""
        count = ctypes.c_uint()
        if self._call("nvmlDeviceGetCount_v2", ctypes.byref(count)) != _SUCCESS:
            raise NvmlError("NVML does not count the GPUs")
        found = []
        for index in range(count.value):
            device = ctypes.c_void_p()
            if self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device)) == _SUCCESS:
                found.append({"index": index, **self._device(device)})
        return found

    def _device(self, device: ctypes.c_void_p) -> dict[str, Any]:
        values: dict[str, Any] = {
            "uuid": self._text("nvmlDeviceGetUUID", device),
            "name": self._text("nvmlDeviceGetName", device),
        }
        memory, use = _Memory(), _Utilization()
        if self._call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory)) == _SUCCESS:
            values.update(memory_total_bytes=memory.total, memory_used_bytes=memory.used)
        if self._call("nvmlDeviceGetUtilizationRates", device, ctypes.byref(use)) == _SUCCESS:
            values.update(utilization=use.gpu / 100, memory_utilization=use.memory / 100)
        numbers: dict[str, tuple[str, float, Any, tuple[int, ...]]] = {
            "temperature_celsius": ("nvmlDeviceGetTemperature", 1, ctypes.c_uint, (_TEMPERATURE_GPU,)),
            "power_watts": ("nvmlDeviceGetPowerUsage", 1e-3, ctypes.c_uint, ()),
            "power_limit_watts": ("nvmlDeviceGetEnforcedPowerLimit", 1e-3, ctypes.c_uint, ()),
            "sm_clock_hertz": ("nvmlDeviceGetClockInfo", 1e6, ctypes.c_uint, (_CLOCK_SM,)),
            "throttle_reasons": ("nvmlDeviceGetCurrentClocksThrottleReasons", 1, ctypes.c_ulonglong, ()),
            "ecc_corrected": ("nvmlDeviceGetTotalEccErrors", 1, ctypes.c_ulonglong, (_CORRECTED, _VOLATILE)),
            "ecc_uncorrected": ("nvmlDeviceGetTotalEccErrors", 1, ctypes.c_ulonglong, (_UNCORRECTED, _VOLATILE)),
        }
        for name, (function, factor, kind, arguments) in numbers.items():
            value = kind()
            given = (ctypes.c_uint(argument) for argument in arguments)
            if self._call(function, device, *given, ctypes.byref(value)) == _SUCCESS:
                values[name] = value.value * factor
        return values

    def _text(self, function: str, device: ctypes.c_void_p) -> str:
        buffer = ctypes.create_string_buffer(_NAME_BYTES)
        code = self._call(function, device, buffer, ctypes.c_uint(_NAME_BYTES))
        return buffer.value.decode("utf-8", "replace") if code == _SUCCESS else ""

    def _call(self, name: str, *arguments: Any) -> int:
        """Return NVML's code; a function that this driver does not have counts as not supported."""
        try:
            function = getattr(self._library, name)
        except AttributeError:
            return -1
        return int(function(*arguments))


#: Value of Nvml.read -> metric, its kind, its meaning.
_METRICS = {
    "memory_total_bytes": ("vllmd_gpu_memory_total_bytes", "gauge", "Memory of the GPU."),
    "memory_used_bytes": ("vllmd_gpu_memory_used_bytes", "gauge", "Memory of the GPU in use."),
    "utilization": ("vllmd_gpu_utilization_ratio", "gauge", "Share of time in which a kernel ran."),
    "memory_utilization": (
        "vllmd_gpu_memory_utilization_ratio",
        "gauge",
        "Share of time in which memory was accessed.",
    ),
    "temperature_celsius": ("vllmd_gpu_temperature_celsius", "gauge", "Temperature of the GPU."),
    "power_watts": ("vllmd_gpu_power_watts", "gauge", "Power that the GPU draws."),
    "power_limit_watts": ("vllmd_gpu_power_limit_watts", "gauge", "Power that the GPU may draw."),
    "sm_clock_hertz": ("vllmd_gpu_sm_clock_hertz", "gauge", "Clock of the multiprocessors."),
    "throttle_reasons": ("vllmd_gpu_throttle_reasons", "gauge", "Why clocks are held back, NVML's bits."),
    "ecc_corrected": (
        "vllmd_gpu_ecc_corrected_errors_total",
        "counter",
        "Memory errors corrected since the driver loaded.",
    ),
    "ecc_uncorrected": (
        "vllmd_gpu_ecc_uncorrected_errors_total",
        "counter",
        "Memory errors that could not be corrected.",
    ),
}


def text(devices: list[dict[str, Any]]) -> str:
    """Return the GPUs' values in the Prometheus text format."""
    labels = [{"gpu": str(device["index"]), "uuid": device["uuid"], "name": device["name"]} for device in devices]
    families = [
        metrics_text.family(
            metric,
            kind,
            meaning,
            [(label, device[name]) for label, device in zip(labels, devices, strict=True) if name in device],
        )
        for name, (metric, kind, meaning) in _METRICS.items()
    ]
    return "".join(families)


def main(
    path: str = FILE, library: Any = None, sleep: Callable[[float], None] = time.sleep, rounds: int | None = None
) -> int:
    """Write ``path`` again and again (``rounds`` times when given); return the exit status."""
    try:
        nvml = Nvml(library)
        while rounds is None or rounds > 0:
            files.replace(path, text(nvml.read()), 0o644)
            sleep(INTERVAL_SECONDS)
            rounds = None if rounds is None else rounds - 1
    except (NvmlError, OSError) as error:
        print(f"vllmd-gpu-metrics: {error}", file=sys.stderr, flush=True)
        return 1
    return 0
