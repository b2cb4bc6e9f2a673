"""What files from strangers may hold: every limit that is checked before anything is sized after them, in one place.

A file beyond its limit is refused with the limit and what to do; no reader unpickles, and none follows a link out of a
run folder. What a task may load is the recipe's own `max_bytes`."""

from __future__ import annotations

RECIPE_BYTES, RECIPE_DEPTH, RECIPE_VALUES, RECIPE_DIGITS = 64 * 1024, 32, 20_000, 100
"""Recipes and studies: bytes of the text, levels of nesting, values with their aliases written out, digits of a whole
number. More values than such a text can spell out: only aliases of aliases reach that."""

CONFIG_BYTES = 1024 * 1024
"""neat-python's configuration files."""

GENOME_BYTES = 16_000_000
"""Genome files: the largest layer graph allowed has under 2 MB, a direct genome of 200,000 links 12 MB."""

LAYERS, EDGES = 1_000, 10_000
"""Genes of a layer graph."""

NODES = LINKS = ENDS = 1_000_000
"""Genes of a direct genome, and its inputs and outputs."""

SIDE = 2**31 - 1
"""A task's inputs along one axis, and its outputs, in a genome file."""

PARAMS = 2**31
"""Parameters of a network that is built."""

WEIGHTS_BYTES = 16 * PARAMS
"""A weights file, where its network is not known: parameters, and an optimiser's two numbers for each."""

CELL_BYTES = 256_000_000
"""One value in a run's database: the journal of a population of a million takes 64 MB."""

TEXT_BYTES = 1_000_000
"""The small files of a run folder: its recipe's copy, its count of commits, its owner."""

DATA_BYTES = 8_000_000_000
"""A decoded array of a task's data, unless the recipe says `max_bytes`: what a file claims is believed up to here."""
