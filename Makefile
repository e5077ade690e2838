.PHONY: install fmt check test test-slow test-gpu test-newest golden
install:
	pip install -e ".[test]"
fmt:
	ruff format . && ruff check --fix .
check:
	ruff check . && ruff format --check . && lint-imports && pyright
test:
	pytest
test-slow:
	pytest -m "slow and not gpu" -n 2 --dist worksteal
test-gpu:
	pytest -m gpu
test-newest:
	test -x .venv-newest/bin/pytest || (python3.11 -m venv .venv-newest && .venv-newest/bin/pip install uv && \
	VIRTUAL_ENV=$(CURDIR)/.venv-newest .venv-newest/bin/uv pip install --override requirements/newest-torch.txt -e ".[test]")
	OMP_NUM_THREADS=1 .venv-newest/bin/pytest
golden:
	python tests/golden/make_golden.py
