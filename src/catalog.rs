//! The catalog: what Cairn knows, in SQLite. A cache: stubs alone, or aggregates alone, rebuild it.
