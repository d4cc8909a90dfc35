"""The operations of a store by group: one list for both worlds, one file per group. No SQL, no connections."""
