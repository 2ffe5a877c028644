"""Finished assets, packed for engines: ``splatmill export``. Its tables: ``profiles``, ``formats``, ``tools``."""
