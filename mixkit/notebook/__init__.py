"""Charts, tables, widgets and the report of a study."""
