"""Queries that are ready to use, for exporters that everybody runs.

What grows with a machine is divided by its size, so that machines of all sizes share a model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLACEHOLDER = re.compile(r"\$(\w+)")


@dataclass(frozen=True)
class Preset:
    """A group of queries.

    Attributes
    ----------
    about : str
        What they are of.
    queries : mapping of str to str
        PromQL by the name of the column; `queries_of` fills in what begins with `$`.
    by : tuple of str
        The labels of a series.
    """

    about: str
    queries: Mapping[str, str]
    by: tuple[str, ...]


_DISKS = 'device!~"dm-.*|loop.*|md.*|ram.*|sr.*"'
_NETWORKS = 'device!~"lo|veth.*|docker.*|br-.*|cali.*|cni.*|flannel.*|virbr.*"'

PRESETS: dict[str, Preset] = {
    "node-exporter": Preset(
        "A machine, by node_exporter.",
        {
            "cpu_busy": '1 - avg $by (rate(node_cpu_seconds_total{mode="idle",$selector}[$rate]))',
            "cpu_system": "avg $by (sum without (mode) "
            '(rate(node_cpu_seconds_total{mode=~"system|irq|softirq",$selector}[$rate])))',
            "load_per_cpu": "avg $by (node_load1{$selector}) "
            '/ count $by (node_cpu_seconds_total{mode="idle",$selector})',
            "memory_used": "1 - avg $by (node_memory_MemAvailable_bytes{$selector}) "
            "/ avg $by (node_memory_MemTotal_bytes{$selector})",
            "context_switches": "sum $by (rate(node_context_switches_total{$selector}[$rate]))",
            "disk_read_bytes": f"sum $by (rate(node_disk_read_bytes_total{{{_DISKS},$selector}}[$rate]))",
            "disk_written_bytes": "sum $by "
            f"(rate(node_disk_written_bytes_total{{{_DISKS},$selector}}[$rate]))",
            "network_received_bytes": "sum $by "
            f"(rate(node_network_receive_bytes_total{{{_NETWORKS},$selector}}[$rate]))",
            "network_sent_bytes": "sum $by "
            f"(rate(node_network_transmit_bytes_total{{{_NETWORKS},$selector}}[$rate]))",
        },
        ("job", "instance"),
    ),
    "datasentinel": Preset(
        "Servers of datasentinel, by their own metrics.",
        {
            "requests": "sum $by (rate(datasentinel_requests_total{$selector}[$rate]))",
            "rows": "sum $by (rate(datasentinel_rows_total{$selector}[$rate]))",
            "errors": "sum $by (rate(datasentinel_errors_total{$selector}[$rate]))",
            "anomalies": "sum $by (rate(datasentinel_anomalies_total{$selector}[$rate]))",
            "open_connections": "sum $by (datasentinel_open_connections{$selector})",
            "cpu_seconds": "sum $by (rate(process_cpu_seconds_total{$selector}[$rate])) "
            "and $on datasentinel_ready",
            "memory_bytes": "sum $by (process_resident_memory_bytes{$selector}) and $on datasentinel_ready",
        },
        ("job", "instance"),
    ),
}


def queries_of(preset: Preset, *, by: tuple[str, ...], selector: str, rate: str) -> dict[str, str]:
    """Return the queries of a preset, filled in."""
    labels = ", ".join(by)
    values = {"selector": selector, "rate": rate, "by": f"by ({labels})", "on": f"on ({labels})"}
    return {
        name: _PLACEHOLDER.sub(lambda found: values[found[1]], query)
        for name, query in preset.queries.items()
    }
