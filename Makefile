PY := .venv/bin/python
.PHONY: proto
proto:
	$(PY) -m grpc_tools.protoc -I engine --python_out=engine --mypy_out=engine --grpc_python_out=engine --mypy_grpc_out=engine engine/headway_rpc/engine.proto
