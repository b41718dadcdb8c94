"""Answers to geosched-ctl: the server, the handlers, the views."""
