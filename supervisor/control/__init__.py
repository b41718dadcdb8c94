"""Answers to geosched-ctl: the server, the handlers of requests, and views."""
