"""Simulated transactions with fraud patterns that drift, for demonstrations, tests and capacity planning.

``for_rows`` or ``SimulationConfig`` says what to make, ``simulate`` yields it day by day, ``write`` puts it
into a file.
"""

from fraudml.simulation.config import LabelDelays, SimulationConfig, for_rows
from fraudml.simulation.simulator import simulate
from fraudml.simulation.writer import SimulationSummary, write

__all__ = ["LabelDelays", "SimulationConfig", "SimulationSummary", "for_rows", "simulate", "write"]
