"""The command `geosched-ctl`: its options, its verbs, and the output of answers."""
