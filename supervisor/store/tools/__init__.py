"""Work on store files in short-lived processes: examine, copy, compact, restore, export."""
