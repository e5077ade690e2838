.PHONY: install fmt check test test-slow test-gpu golden
install:
	pip install -e ".[test]"
fmt:
	ruff format . && ruff check --fix .
check:
	ruff check . && ruff format --check . && lint-imports && pyright
test:
	pytest
test-slow:
	pytest -m "slow and not gpu" -n 2 --dist loadfile
test-gpu:
	pytest -m gpu
golden:
	python tests/golden/make_golden.py
