"""What devices know that still hear with the bundle before, through the linear map of the newer one.

Not exact, so it is shown beside the fleet's sum and never added to it.
"""

from __future__ import annotations

from dataclasses import replace

from edge.errors import MisuseError
from edge.linear_map import parent_map
from edge.space import FeatureSpace
from edge.statistics_file import PackedStatistics
from trainer.server.ears import bundle_of_space
from trainer.server.fleet import FleetMemory, select_statements
from trainer.server.fleet_sum import FleetSum
from trainer.server.opening import Server
from trainer.server.statements import read_statement


def mapped_fleet(server: Server, memory: FleetMemory) -> FleetMemory:
    """Return the sum of what maps into the space of ``memory``. Raises MisuseError where no bundle carries a map."""
    space = memory.selection.space
    bundle = None if space is None else bundle_of_space(server, space.embedding.sha256)
    chart = None if bundle is None else parent_map(bundle)
    if space is None or chart is None:
        raise MisuseError(
            "the bundle of this space carries no linear map of a bundle before it; leave --with-mapped out"
        )
    total = FleetSum(space)
    older = select_statements(server, chart.space.sha256) if chart.space.sha256 in memory.selection.spaces else None
    for statement in () if older is None else older.statements:
        stated = read_statement(server.blobs, FeatureSpace(chart.space), statement).unpacked()
        total.add(PackedStatistics.of(chart.map.statistics(stated, space)), statement.names)
    selection = replace(memory.selection, statements=() if older is None else older.statements, shared={}, n_shared=0)
    return FleetMemory(selection, total.statistics())
