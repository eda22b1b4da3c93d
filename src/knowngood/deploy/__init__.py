"""What runs beside a production line: the HTTP server, the watched folder, and the sinks that results go to."""
