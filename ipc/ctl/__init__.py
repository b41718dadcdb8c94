"""`geosched-ctl`: its verbs and how their answers are shown."""
