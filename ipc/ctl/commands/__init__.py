"""The verbs of geosched-ctl: one module each, named as the verb, with its `command`."""
