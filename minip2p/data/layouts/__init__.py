"""How a set of edit pairs is read from disk, one file per layout. `data.edits.LAYOUTS` lists them by name."""
