"""Communication between processes: messages, sockets, and the client `geosched-ctl`."""
