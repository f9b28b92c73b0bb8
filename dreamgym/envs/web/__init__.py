"""Web pages as environments: a browser in a process of its own, its pages as text, and experts by rule."""
