"""Tables of daemonDB: schema, codec, migrations, and one module for each table or two."""
