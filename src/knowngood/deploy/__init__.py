"""What runs beside a production line: the HTTP server, the watched folder, sinks for results, and the ONNX graph."""
